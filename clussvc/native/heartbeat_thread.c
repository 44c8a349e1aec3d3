/*
 * The type Heartbeats: the core of heartbeat_core.h for Python, and a thread that runs it against real sockets.
 *
 * The thread sends on time and notes arrivals on time whatever the interpreter does: it never takes the interpreter's
 * lock, allocates nothing, and blocks on nothing but epoll and a mutex that is held for microseconds (and lends its
 * holder the thread's priority). It stops sending when the service has not vouched for itself for a lease. Without
 * start() there is no thread, and the same core is driven by hand with any time: so do the simulator and the tests.
 *
 * The thread sends when the interval is over, when the service asks for it, and to answer a probe. Only that and the
 * stamping of times is done here; what a datagram means is the core's business.
 */

#define _GNU_SOURCE
#include <Python.h>


#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "heartbeat_core.h"
#include "native.h"

#define TARGETS_MAX (HB_NODES_MAX * HB_NETWORKS_MAX)
#define SOCKETS_MAX (2 * HB_NETWORKS_MAX)
#define DATAGRAMS_PER_TURN_MAX 256
#define ANSWER_PAUSE_MS 2 /* Between two answers to probes, so that probes cannot be used to make noise. */
#define THREAD_PRIORITY 50
#define NICE_WITHOUT_REALTIME (-15)

struct target {
    struct sockaddr_storage address;
    socklen_t length;
    int fd;
    uint16_t node;
    uint8_t peer_address; /* Which of the peer's addresses this is. */
    bool multicast;       /* To everybody on this network at once. */
};

struct listener {
    int fd;
    uint8_t network;
    bool multicast;
};

typedef struct {
    PyObject_HEAD
    struct hb_core *core;
    pthread_mutex_t lock;
    bool lock_made;

    struct target targets[TARGETS_MAX];
    size_t target_count;
    struct listener listeners[SOCKETS_MAX];
    size_t listener_count;
    int64_t interval_ms, next_send_ms, last_sent_ms, last_answer_ms;
    uint64_t sent, send_failed, receive_failed, multicast_sent, late_max_ms;

    bool running;
    atomic_bool stopping;
    pthread_t thread;
    int epoll, timer, wake, news;
} Heartbeats;

static int64_t
boottime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- the thread --------------------------------------------------------------------------------------------------- */

static void
send_now(Heartbeats *self, int64_t now_ms)
{
    uint8_t data[HB_DATAGRAM_BYTES_MAX];
    self->next_send_ms = now_ms + self->interval_ms;
    size_t length = hb_compose(self->core, now_ms, data);
    if (!length)
        return;
    self->last_sent_ms = now_ms;
    for (size_t at = 0; at < self->target_count; at++) {
        const struct target *target = &self->targets[at];
        if (!target->multicast) {
            const struct hb_peer *peer = hb_find(self->core, target->node);
            if (peer != NULL && hb_covered(self->core, peer, target->peer_address))
                continue;
        }
        if (sendto(target->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&target->address,
                   target->length) < 0)
            self->send_failed++;
        else if (target->multicast)
            self->multicast_sent++;
        else
            self->sent++;
    }
}

static bool
receive_all(Heartbeats *self, const struct listener *listener)
{
    bool news = false;
    /* One byte more than allowed shows a datagram that is too long instead of cutting it. */
    uint8_t data[HB_DATAGRAM_BYTES_MAX + 1];
    for (int turn = 0; turn < DATAGRAMS_PER_TURN_MAX; turn++) {
        ssize_t length = recv(listener->fd, data, sizeof data, MSG_DONTWAIT);
        if (length < 0) {
            /* An interface that goes down reports itself here; the socket works again when it is back. */
            if (errno != EAGAIN && errno != EINTR)
                self->receive_failed++;
            break;
        }
        struct hb_heard heard;
        int64_t now_ms = boottime_ms();
        hb_receive(self->core, data, (size_t)length, now_ms, listener->network, listener->multicast, &heard);
        news = news || heard.news;
        if (heard.answer && now_ms - self->last_answer_ms >= ANSWER_PAUSE_MS) {
            self->last_answer_ms = now_ms;
            send_now(self, now_ms);
        }
    }
    return news;
}

static void
arm_timer(Heartbeats *self)
{
    struct itimerspec at = {
        .it_value = {.tv_sec = self->next_send_ms / 1000, .tv_nsec = (self->next_send_ms % 1000) * 1000000},
    };
    if (!at.it_value.tv_sec && !at.it_value.tv_nsec)
        at.it_value.tv_nsec = 1; /* Zero would disarm it. */
    timerfd_settime(self->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void
drain(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) > 0)
        ;
}

static void
signal_fd(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) < 0) {
        /* Only a full counter refuses, and then the reader will wake up anyway. */
    }
}

static void *
run(void *argument)
{
    Heartbeats *self = argument;
    struct epoll_event events[SOCKETS_MAX + 2];
    while (!atomic_load(&self->stopping)) {
        int count = epoll_wait(self->epoll, events, SOCKETS_MAX + 2, -1);
        bool news = false;
        pthread_mutex_lock(&self->lock);
        for (int at = 0; at < count; at++) {
            uint64_t which = events[at].data.u64;
            if (which < self->listener_count)
                news |= receive_all(self, &self->listeners[which]);
            else
                drain(which == SOCKETS_MAX ? self->timer : self->wake);
        }
        int64_t now_ms = boottime_ms();
        if (now_ms >= self->next_send_ms) {
            if (self->last_sent_ms && (uint64_t)(now_ms - self->next_send_ms) > self->late_max_ms)
                self->late_max_ms = (uint64_t)(now_ms - self->next_send_ms);
            send_now(self, now_ms);
        }
        arm_timer(self);
        pthread_mutex_unlock(&self->lock);
        if (news)
            signal_fd(self->news);
    }
    return NULL;
}

/* What the system permits is used; the answer is why something is missing, or NULL. Runs on the thread's behalf before
 * it starts, through its attributes, so nobody has to ask the thread. */
static int
start_thread(Heartbeats *self, bool realtime, int *refused)
{
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    *refused = 0;
    if (error)
        return error;
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    if (realtime) {
        struct sched_param priority = {.sched_priority = THREAD_PRIORITY};
        pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
        pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
        pthread_attr_setschedparam(&attributes, &priority);
        error = pthread_create(&self->thread, &attributes, run, self);
        if (error == EPERM || error == EINVAL) {
            *refused = error;
            pthread_attr_setinheritsched(&attributes, PTHREAD_INHERIT_SCHED);
            error = pthread_create(&self->thread, &attributes, run, self);
        }
    } else
        error = pthread_create(&self->thread, &attributes, run, self);
    pthread_attr_destroy(&attributes);
    return error;
}

/* --- from Python -------------------------------------------------------------------------------------------------- */

static int
heartbeats_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    Heartbeats *self = (Heartbeats *)object;
    static char *names[] = {"node", "boot", "key", "key_number", NULL};
    unsigned short node;
    unsigned long long boot;
    unsigned char key_number = 0;
    Py_buffer key;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "HKy*|b", names, &node, &boot, &key, &key_number))
        return -1;
    if (key.len != HB_KEY_BYTES || self->core != NULL) {
        PyBuffer_Release(&key);
        PyErr_SetString(PyExc_ValueError, "the key must have 16 bytes, and nothing is made twice");
        return -1;
    }
    self->core = malloc(sizeof *self->core);
    pthread_mutexattr_t attributes;
    if (self->core == NULL || pthread_mutexattr_init(&attributes)) {
        PyBuffer_Release(&key);
        PyErr_NoMemory();
        return -1;
    }
    /* Whoever holds the lock runs at the thread's priority as long as the thread waits for it. */
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&self->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    self->lock_made = true;
    hb_init(self->core, node, boot, key.buf, key_number);
    PyBuffer_Release(&key);
    self->epoll = self->timer = self->wake = self->news = -1;
    self->interval_ms = 100;
    return 0;
}

static void
stop_thread(Heartbeats *self)
{
    if (!self->running)
        return;
    atomic_store(&self->stopping, true);
    signal_fd(self->wake);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(self->thread, NULL);
    Py_END_ALLOW_THREADS
    self->running = false;
    signal_fd(self->news); /* Whoever waits for news learns that there will be none. */
}

static void
heartbeats_dealloc(PyObject *object)
{
    Heartbeats *self = (Heartbeats *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->core != NULL) {
        stop_thread(self);
        int fds[] = {self->epoll, self->timer, self->wake, self->news};
        for (size_t at = 0; at < sizeof fds / sizeof *fds; at++)
            if (fds[at] >= 0)
                close(fds[at]);
        free(self->core);
    }
    if (self->lock_made)
        pthread_mutex_destroy(&self->lock);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *
heartbeats_set_peers(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    PyObject *wanted;
    long long now_ms;
    uint16_t nodes[HB_NODES_MAX];
    if (!PyArg_ParseTuple(args, "O!L", &PyTuple_Type, &wanted, &now_ms))
        return NULL;
    Py_ssize_t count = PyTuple_Size(wanted);
    if (count > HB_NODES_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd peers; at most %d fit", count, HB_NODES_MAX);
    for (Py_ssize_t at = 0; at < count; at++) {
        long node = PyLong_AsLong(PyTuple_GetItem(wanted, at));
        if (node < 0 || node > UINT16_MAX || node == self->core->node)
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%ld cannot be a peer", node);
        nodes[at] = (uint16_t)node;
    }
    pthread_mutex_lock(&self->lock);
    bool done = hb_set_peers(self->core, nodes, (size_t)count, now_ms);
    pthread_mutex_unlock(&self->lock);
    if (!done)
        return PyErr_Format(PyExc_ValueError, "more than %d nodes have been peers", HB_PEERS_MAX);
    Py_RETURN_NONE;
}

static bool
resolve(const char *host, unsigned port, struct target *target)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_DGRAM}, *found;
    char service[8];
    PyOS_snprintf(service, sizeof service, "%u", port);
    if (port > 65535 || getaddrinfo(host, service, &hints, &found))
        return false;
    memcpy(&target->address, found->ai_addr, found->ai_addrlen);
    target->length = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

static PyObject *
heartbeats_set_targets(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    PyObject *wanted;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &wanted))
        return NULL;
    Py_ssize_t count = PyTuple_Size(wanted);
    if (count > TARGETS_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd targets; at most %d fit", count, TARGETS_MAX);
    struct target *fresh = calloc((size_t)count + 1, sizeof *fresh);
    if (fresh == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t at = 0; at < count; at++) {
        const char *host;
        unsigned port;
        int multicast;
        if (!PyArg_ParseTuple(PyTuple_GetItem(wanted, at), "iHbpsI", &fresh[at].fd, &fresh[at].node,
                              &fresh[at].peer_address, &multicast, &host, &port)) {
            free(fresh);
            return NULL;
        }
        fresh[at].multicast = multicast;
        if (!resolve(host, port, &fresh[at])) {
            PyErr_Format(PyExc_ValueError, "%s port %u is no address", host, port);
            free(fresh);
            return NULL;
        }
    }
    pthread_mutex_lock(&self->lock);
    memcpy(self->targets, fresh, (size_t)count * sizeof *fresh);
    self->target_count = (size_t)count;
    pthread_mutex_unlock(&self->lock);
    free(fresh);
    Py_RETURN_NONE;
}

static PyObject *
heartbeats_watch(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    PyObject *wanted;
    long long watch_ms;
    uint16_t nodes[HB_NODES_MAX];
    if (!PyArg_ParseTuple(args, "O!L", &PyTuple_Type, &wanted, &watch_ms))
        return NULL;
    Py_ssize_t count = PyTuple_Size(wanted);
    if (count > HB_NODES_MAX)
        return PyErr_Format(PyExc_ValueError, "%zd nodes; at most %d fit", count, HB_NODES_MAX);
    for (Py_ssize_t at = 0; at < count; at++)
        nodes[at] = (uint16_t)PyLong_AsLong(PyTuple_GetItem(wanted, at));
    if (PyErr_Occurred())
        return NULL;
    pthread_mutex_lock(&self->lock);
    hb_watch(self->core, nodes, (size_t)count, watch_ms);
    pthread_mutex_unlock(&self->lock);
    Py_RETURN_NONE;
}

static PyObject *
heartbeats_vouch(PyObject *object, PyObject *args, PyObject *kwargs)
{
    Heartbeats *self = (Heartbeats *)object;
    static char *names[] = {"until_ms", "grants_until_ms", "interval_ms", "phase", "attempt", "incarnation",
                            "index",    "voters_version",  "at_once",     "probe", NULL};
    long long until_ms, grants_until_ms, interval_ms;
    struct hb_content content;
    unsigned attempt, voters_version;
    unsigned long long incarnation, index;
    int at_once, probe;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$LLLbIKKIpp", names, &until_ms, &grants_until_ms, &interval_ms,
                                     &content.phase, &attempt, &incarnation, &index, &voters_version, &at_once, &probe))
        return NULL;
    if (content.phase >= HB_PHASES || interval_ms < 1)
        return PyErr_Format(PyExc_ValueError, "phase %d, interval %lld ms", (int)content.phase, interval_ms);
    content.attempt = attempt;
    content.incarnation = incarnation;
    content.index = index;
    content.voters_version = voters_version;
    pthread_mutex_lock(&self->lock);
    hb_vouch(self->core, &content, until_ms, grants_until_ms, probe);
    self->interval_ms = interval_ms;
    bool wake = self->running && (at_once || self->next_send_ms > boottime_ms() + interval_ms);
    if (wake)
        self->next_send_ms = 0;
    pthread_mutex_unlock(&self->lock);
    if (wake)
        signal_fd(self->wake);
    Py_RETURN_NONE;
}

static PyObject *
heartbeats_take(PyObject *object, PyObject *unused)
{
    (void)unused;
    Heartbeats *self = (Heartbeats *)object;
    PyObject *result = PyList_New(0);
    struct hb_record record;
    while (result != NULL) {
        pthread_mutex_lock(&self->lock);
        bool found = hb_take(self->core, &record);
        pthread_mutex_unlock(&self->lock);
        if (!found)
            break;
        PyObject *heard = PyTuple_New((Py_ssize_t)record.count);
        for (size_t at = 0; heard != NULL && at < record.count; at++) {
            PyObject *hearing = Py_BuildValue("HIII", record.heard[at].node, record.heard[at].boot,
                                              record.heard[at].seq, record.heard[at].silent_ms);
            if (hearing == NULL || PyTuple_SetItem(heard, (Py_ssize_t)at, hearing) < 0)
                Py_CLEAR(heard);
        }
        PyObject *entry =
            heard == NULL
                ? NULL
                : Py_BuildValue("LLHKKKbIKION", (long long)record.received_ms, (long long)record.acknowledged_ms,
                                record.sender, (unsigned long long)record.boot, (unsigned long long)record.seq,
                                (unsigned long long)record.content.incarnation, record.content.phase,
                                record.content.attempt, (unsigned long long)record.content.index,
                                record.content.voters_version, record.grants ? Py_True : Py_False, heard);
        if (entry == NULL || PyList_Append(result, entry) < 0)
            Py_CLEAR(result);
        Py_XDECREF(entry);
    }
    return result;
}

static PyObject *
heartbeats_compose(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    long long now_ms;
    uint8_t data[HB_DATAGRAM_BYTES_MAX];
    if (!PyArg_ParseTuple(args, "L", &now_ms))
        return NULL;
    pthread_mutex_lock(&self->lock);
    size_t length = hb_compose(self->core, now_ms, data);
    pthread_mutex_unlock(&self->lock);
    return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
}

static PyObject *
heartbeats_compose_will(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    unsigned long long incarnation;
    uint8_t data[HB_DATAGRAM_BYTES_MAX];
    if (!PyArg_ParseTuple(args, "K", &incarnation))
        return NULL;
    size_t length = hb_compose_will(self->core, incarnation, data);
    return PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
}

static PyObject *
heartbeats_receive(PyObject *object, PyObject *args, PyObject *kwargs)
{
    Heartbeats *self = (Heartbeats *)object;
    static char *names[] = {"data", "now_ms", "network", "multicast", NULL};
    Py_buffer data;
    long long now_ms;
    unsigned network = 0;
    int multicast = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*L|Ip", names, &data, &now_ms, &network, &multicast))
        return NULL;
    struct hb_heard heard;
    pthread_mutex_lock(&self->lock);
    enum hb_outcome outcome =
        hb_receive(self->core, data.buf, (size_t)data.len, now_ms, network, multicast, &heard);
    pthread_mutex_unlock(&self->lock);
    PyBuffer_Release(&data);
    return Py_BuildValue("sNN", hb_outcome_names[outcome], PyBool_FromLong(heard.news),
                         PyBool_FromLong(heard.answer));
}

static bool
watch_fd(int epoll, int fd, uint64_t which)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = which}};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static PyObject *
heartbeats_start(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    PyObject *wanted;
    int realtime, refused;
    if (!PyArg_ParseTuple(args, "O!p", &PyTuple_Type, &wanted, &realtime))
        return NULL;
    Py_ssize_t count = PyTuple_Size(wanted);
    if (self->running || self->epoll >= 0 || count > SOCKETS_MAX)
        return PyErr_Format(PyExc_ValueError, "started already, or more than %d sockets", SOCKETS_MAX);
    for (Py_ssize_t at = 0; at < count; at++) {
        int multicast;
        struct listener *listener = &self->listeners[at];
        if (!PyArg_ParseTuple(PyTuple_GetItem(wanted, at), "ibp", &listener->fd, &listener->network, &multicast))
            return NULL;
        listener->multicast = multicast;
    }
    self->listener_count = (size_t)count;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    self->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    self->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->news = eventfd(0, EFD_CLOEXEC);
    if (self->epoll < 0 || self->timer < 0 || self->wake < 0 || self->news < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    bool watched = watch_fd(self->epoll, self->timer, SOCKETS_MAX) &&
                   watch_fd(self->epoll, self->wake, SOCKETS_MAX + 1);
    for (Py_ssize_t at = 0; watched && at < count; at++)
        watched = watch_fd(self->epoll, self->listeners[at].fd, (uint64_t)at);
    if (!watched)
        return PyErr_SetFromErrno(PyExc_OSError);
    arm_timer(self);
    errno = start_thread(self, realtime, &refused);
    if (errno)
        return PyErr_SetFromErrno(PyExc_OSError);
    self->running = true;
    return PyUnicode_FromString(refused ? strerror(refused) : "");
}

static PyObject *
heartbeats_stop(PyObject *object, PyObject *unused)
{
    (void)unused;
    stop_thread((Heartbeats *)object);
    Py_RETURN_NONE;
}

static PyObject *
heartbeats_wait(PyObject *object, PyObject *unused)
{
    (void)unused;
    Heartbeats *self = (Heartbeats *)object;
    uint64_t count;
    ssize_t got;
    if (self->news < 0)
        Py_RETURN_FALSE;
    Py_BEGIN_ALLOW_THREADS
    got = read(self->news, &count, sizeof count);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(got > 0 && !atomic_load(&self->stopping));
}

static PyObject *
heartbeats_statistics(PyObject *object, PyObject *unused)
{
    (void)unused;
    Heartbeats *self = (Heartbeats *)object;
    uint64_t outcomes[HB_OUTCOMES];
    pthread_mutex_lock(&self->lock);
    memcpy(outcomes, self->core->outcomes, sizeof outcomes);
    unsigned long long overflowed = self->core->overflowed, composed = self->core->composed;
    unsigned long long sent = self->sent, multicast = self->multicast_sent, failed = self->send_failed,
                       unread = self->receive_failed, late = self->late_max_ms;
    pthread_mutex_unlock(&self->lock);
    PyObject *result =
        Py_BuildValue("{sKsKsKsKsKsKsK}", "composed", composed, "sent", sent, "sent.multicast", multicast,
                      "send.failed", failed, "receive.failed", unread, "overflowed", overflowed, "late_max_ms", late);
    for (int outcome = 0; result != NULL && outcome < HB_OUTCOMES; outcome++) {
        PyObject *count = PyLong_FromUnsignedLongLong(outcomes[outcome]);
        if (count == NULL || PyDict_SetItemString(result, hb_outcome_names[outcome], count) < 0)
            Py_CLEAR(result);
        Py_XDECREF(count);
    }
    return result;
}

static PyObject *
heartbeats_measure(PyObject *object, PyObject *unused)
{
    (void)unused;
    Heartbeats *self = (Heartbeats *)object;
    PyObject *gaps = PyDict_New();
    for (size_t at = 0; gaps != NULL && at < HB_PEERS_MAX; at++) {
        pthread_mutex_lock(&self->lock);
        bool there = at < self->core->peer_count, known = there && self->core->peers[at].known;
        long node = self->core->peers[at].node;
        long long gap_ms = self->core->peers[at].gap_max_ms;
        self->core->peers[at].gap_max_ms = 0;
        pthread_mutex_unlock(&self->lock);
        if (!there)
            break;
        PyObject *key = PyLong_FromLong(node), *value = PyLong_FromLongLong(gap_ms);
        if (key == NULL || value == NULL || (known && PyDict_SetItem(gaps, key, value) < 0))
            Py_CLEAR(gaps);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    pthread_mutex_lock(&self->lock);
    unsigned long long late_ms = self->late_max_ms;
    self->late_max_ms = 0;
    pthread_mutex_unlock(&self->lock);
    return gaps == NULL ? NULL : Py_BuildValue("KN", late_ms, gaps);
}

static PyObject *
heartbeats_ages(PyObject *object, PyObject *args)
{
    Heartbeats *self = (Heartbeats *)object;
    long long now_ms;
    if (!PyArg_ParseTuple(args, "L", &now_ms))
        return NULL;
    PyObject *result = PyDict_New();
    for (size_t at = 0; result != NULL && at < HB_PEERS_MAX; at++) {
        pthread_mutex_lock(&self->lock);
        bool there = at < self->core->peer_count;
        struct hb_peer peer = self->core->peers[at];
        pthread_mutex_unlock(&self->lock);
        if (!there)
            break;
        if (!peer.known || !peer.ever_heard)
            continue;
        PyObject *ages = PyList_New(0), *node = PyLong_FromLong(peer.node);
        for (unsigned network = 0; ages != NULL && network < HB_NETWORKS_MAX; network++) {
            int64_t heard_ms = peer.heard_ms[network];
            PyObject *age = PyLong_FromLongLong(heard_ms < 0 ? -1 : now_ms - heard_ms);
            if (age == NULL || PyList_Append(ages, age) < 0)
                Py_CLEAR(ages);
            Py_XDECREF(age);
        }
        if (ages == NULL || node == NULL || PyDict_SetItem(result, node, ages) < 0)
            Py_CLEAR(result);
        Py_XDECREF(ages);
        Py_XDECREF(node);
    }
    return result;
}

static PyMethodDef heartbeats_methods[] = {
    {"set_peers", heartbeats_set_peers, METH_VARARGS, "set_peers(nodes, now_ms): the other nodes of the cluster."},
    {"set_targets", heartbeats_set_targets, METH_VARARGS,
     "set_targets(((fd, node, peer's address, multicast, host, port), ...)): where heartbeats are sent."},
    {"watch", heartbeats_watch, METH_VARARGS, "watch(nodes, watch_ms): whose silence is news, and from when on."},
    {"vouch", (PyCFunction)(void (*)(void))heartbeats_vouch, METH_VARARGS | METH_KEYWORDS,
     "vouch(...): what the service says of itself, and until when."},
    {"take", heartbeats_take, METH_NOARGS, "take() -> list: the heartbeats heard since the last call, oldest first."},
    {"compose", heartbeats_compose, METH_VARARGS, "compose(now_ms) -> bytes: the next heartbeat, for use by hand."},
    {"compose_will", heartbeats_compose_will, METH_VARARGS,
     "compose_will(incarnation) -> bytes: what may be sent when this boot is over and nothing of it runs."},
    {"receive", (PyCFunction)(void (*)(void))heartbeats_receive, METH_VARARGS | METH_KEYWORDS,
     "receive(data, now_ms, network=0, multicast=False) -> (outcome, news, answer): for use by hand."},
    {"start", heartbeats_start, METH_VARARGS,
     "start(((fd, network, multicast), ...), realtime) -> why there is no real-time priority, or ''."},
    {"stop", heartbeats_stop, METH_NOARGS, "stop(): end the thread."},
    {"wait", heartbeats_wait, METH_NOARGS, "wait() -> bool: wait for news; False when stopped."},
    {"statistics", heartbeats_statistics, METH_NOARGS, "statistics() -> dict of counters."},
    {"measure", heartbeats_measure, METH_NOARGS,
     "measure() -> (ms that sending was late, {node: ms between two heartbeats}): the worst since the last call."},
    {"ages", heartbeats_ages, METH_VARARGS, "ages(now_ms) -> {node: [ms since heard at each address, or -1]}."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot heartbeats_slots[] = {
    {Py_tp_doc, "What a node says and hears in heartbeats; see heartbeat_core.h."},
    {Py_tp_init, heartbeats_init},
    {Py_tp_dealloc, heartbeats_dealloc},
    {Py_tp_methods, heartbeats_methods},
    {0, NULL},
};

static PyType_Spec heartbeats_spec = {
    .name = "clussvc.native._native.Heartbeats",
    .basicsize = sizeof(Heartbeats),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = heartbeats_slots,
};

PyObject *
native_heartbeats_type(void)
{
    return PyType_FromSpec(&heartbeats_spec);
}
