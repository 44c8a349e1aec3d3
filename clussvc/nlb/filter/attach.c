/*
 * The filter in the kernel: maps, the program of program.h loaded into them, and its link to an interface.
 *
 * Spoken directly to the bpf system call. What the kernel's interface asks for here is old enough: links to XDP are of
 * Linux 5.9, the coarse clock of 5.11.
 *
 * A table is replaced by a new map in the map of maps, so every packet meets either the old table or the new one, whole;
 * the call returns when no processor uses the old one any more. The link lives as long as its descriptor: with the
 * process that holds it, the filter is gone.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program.h"

#define LOG_BYTES (1u << 20)
#define FRAME_BYTES_MAX 4096
#define XDP_GENERIC 2u /* XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE of <linux/if_link.h>. */
#define XDP_NATIVE 4u
#ifndef BPF_F_XDP_HAS_FRAGS
#define BPF_F_XDP_HAS_FRAGS (1u << 5)
#endif

/* In the order of MAPS in script/build-filter. */
enum nlb_map { MAP_TABLES, MAP_CPU, MAP_UNTIL, MAP_OPENING, MAP_OPEN, MAP_FRAGMENTS, MAP_COUNT };

typedef struct {
    PyObject_HEAD
    int maps[MAP_COUNT];
    int program, link, table;
    unsigned processors;
    struct nlb_set *sets[NLB_FLOW_TABLES]; /* The kernel's own memory. */
    uint32_t set_counts[NLB_FLOW_TABLES];
    PyObject *loaded; /* The NlbTable by which the flows are named. */
} Program;

static int
bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
    return (int)syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

static uint64_t
address_of(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

/* The name and what failed; the errno is kept. */
static PyObject *
refuse(const char *what)
{
    int number = errno;
    PyObject *error = PyObject_CallFunction(PyExc_OSError, "iN", number,
                                            PyUnicode_FromFormat("%s: %s", what, strerror(number)));
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

static int
make_map(uint32_t type, uint32_t key_bytes, uint32_t value_bytes, uint32_t entries, uint32_t flags, int inner,
         const char *name)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = type;
    attributes.key_size = key_bytes;
    attributes.value_size = value_bytes;
    attributes.max_entries = entries;
    attributes.map_flags = flags;
    if (inner >= 0)
        attributes.inner_map_fd = (uint32_t)inner;
    snprintf(attributes.map_name, sizeof attributes.map_name, "%s", name);
    return bpf(BPF_MAP_CREATE, &attributes);
}

static int
update_map(int map, const void *key, const void *value)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = address_of(key);
    attributes.value = address_of(value);
    attributes.flags = BPF_ANY;
    return bpf(BPF_MAP_UPDATE_ELEM, &attributes);
}

static int
lookup(int map, const void *key, void *value)
{
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = address_of(key);
    attributes.value = address_of(value);
    return bpf(BPF_MAP_LOOKUP_ELEM, &attributes);
}

static void
close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* How many processors a per-processor map has values for: "0-3" or "0-1,4-7" ends with the last one. */
static unsigned
possible_processors(void)
{
    char text[256];
    int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    char *last = text;
    for (char *at = text; *at != '\0'; at++)
        if (*at == '-' || *at == ',')
            last = at + 1;
    return (unsigned)strtoul(last, NULL, 10) + 1;
}

/* The program with the descriptors of its maps in it, given to the kernel. The log is there if it refuses. */
static int
load_program(const int maps[MAP_COUNT], uint32_t flags, char *log)
{
    size_t count = sizeof nlb_program / sizeof *nlb_program;
    struct bpf_insn *instructions = malloc(sizeof nlb_program);
    if (instructions == NULL) {
        errno = ENOMEM;
        return -1;
    }
    memcpy(instructions, nlb_program, sizeof nlb_program);
    for (size_t at = 0; at < sizeof nlb_program_maps / sizeof *nlb_program_maps; at++) {
        struct bpf_insn *instruction = &instructions[nlb_program_maps[at].at];
        instruction->src_reg = BPF_PSEUDO_MAP_FD;
        instruction->imm = maps[nlb_program_maps[at].map];
    }
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_XDP;
    attributes.expected_attach_type = BPF_XDP;
    attributes.insn_cnt = (uint32_t)count;
    attributes.insns = address_of(instructions);
    attributes.license = address_of("none");
    attributes.prog_flags = flags;
    if (log != NULL) {
        attributes.log_buf = address_of(log);
        attributes.log_size = LOG_BYTES;
        attributes.log_level = 1;
    }
    snprintf(attributes.prog_name, sizeof attributes.prog_name, "clussvc_nlb");
    int program = bpf(BPF_PROG_LOAD, &attributes);
    int number = errno;
    free(instructions);
    errno = number;
    return program;
}

/* Frames in several buffers are let through the program where the kernel knows how (5.18); headers are in the first. */
static int
load_program_or_say(const int maps[MAP_COUNT])
{
    int program = load_program(maps, BPF_F_XDP_HAS_FRAGS, NULL);
    if (program < 0 && errno == EINVAL)
        program = load_program(maps, 0, NULL);
    if (program >= 0)
        return program;
    char *log = calloc(1, LOG_BYTES);
    int number = errno;
    if (log != NULL && (number == EINVAL || number == EACCES || number == E2BIG)) {
        program = load_program(maps, 0, log);
        number = errno;
        if (program < 0) {
            size_t length = strlen(log), from = length > 1500 ? length - 1500 : 0;
            PyErr_Format(PyExc_OSError, "the kernel refuses the filter's program: %s; its verifier says: %s",
                         strerror(number), log + from);
        }
    } else {
        errno = number;
        refuse("the kernel does not load the filter's program");
    }
    free(log);
    return program;
}

static void
program_close_all(Program *self)
{
    close_fd(&self->link);
    close_fd(&self->program);
    close_fd(&self->table);
    for (int which = 0; which < MAP_COUNT; which++)
        close_fd(&self->maps[which]);
    for (uint32_t which = 0; which < NLB_FLOW_TABLES; which++) {
        if (self->sets[which] != NULL)
            munmap(self->sets[which], self->set_counts[which] * sizeof(struct nlb_set));
        self->sets[which] = NULL;
    }
    Py_CLEAR(self->loaded);
}

static PyObject *
program_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Program *self = (Program *)allocate(type, 0);
    if (self != NULL) {
        self->program = self->link = self->table = -1;
        for (int which = 0; which < MAP_COUNT; which++)
            self->maps[which] = -1;
    }
    return (PyObject *)self;
}

static int
program_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"open_sets", "sharing", NULL};
    Program *self = (Program *)object;
    unsigned open_sets;
    PyObject *sharing = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|O", names, &open_sets, &sharing))
        return -1;
    if (self->program >= 0) {
        PyErr_SetString(PyExc_ValueError, "the program is loaded already");
        return -1;
    }
    if (sharing != Py_None &&
        (Py_TYPE(sharing) != Py_TYPE(object) || ((Program *)sharing)->maps[MAP_OPEN] < 0)) {
        PyErr_SetString(PyExc_TypeError, "sharing must be an open NlbProgram or None");
        return -1;
    }
    if (open_sets < 1 || open_sets > NLB_OPEN_SETS_MAX ||
        (sharing != Py_None && ((Program *)sharing)->set_counts[NLB_FLOWS_OPEN] != open_sets)) {
        PyErr_SetString(PyExc_ValueError, "open_sets must be in 1..131072, and those of what is shared");
        return -1;
    }
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    errno = EOPNOTSUPP;
    refuse("the filter's program is for little-endian machines");
    return -1;
#endif
    self->processors = possible_processors();
    if (self->processors == 0) {
        refuse("/sys/devices/system/cpu/possible cannot be read");
        return -1;
    }
    int template = make_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct nlb_table), 1, 0, -1, "nlb_table");
    int *maps = self->maps;
    if (template >= 0)
        maps[MAP_TABLES] = make_map(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0, template, "nlb_tables");
    maps[MAP_CPU] = make_map(BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(struct nlb_cpu), 1, 0, -1, "nlb_cpu");
    maps[MAP_UNTIL] = make_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(uint64_t), 1, 0, -1, "nlb_until");
    self->set_counts[NLB_FLOWS_OPENING] = NLB_OPENING_SETS;
    self->set_counts[NLB_FLOWS_OPEN] = open_sets;
    self->set_counts[NLB_FLOWS_FRAGMENTS] = NLB_FRAGMENT_SETS;
    for (uint32_t which = 0; which < NLB_FLOW_TABLES; which++) {
        int *map = &maps[MAP_OPENING + which];
        uint32_t count = self->set_counts[which];
        if (sharing != Py_None)
            *map = fcntl(((Program *)sharing)->maps[MAP_OPENING + which], F_DUPFD_CLOEXEC, 3);
        else
            *map = make_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct nlb_set), count, BPF_F_MMAPABLE, -1, "nlb_flows");
        if (*map < 0)
            continue;
        void *sets = mmap(NULL, count * sizeof(struct nlb_set), PROT_READ | PROT_WRITE, MAP_SHARED, *map, 0);
        if (sets == MAP_FAILED)
            close_fd(map);
        else
            self->sets[which] = sets;
    }
    /* Until the first real one there is a table of zeros: no address is known, so everything passes. */
    uint32_t zero = 0;
    const uint64_t forever = UINT64_MAX;
    bool failed = template < 0 || update_map(maps[MAP_TABLES], &zero, &template) < 0 ||
                  update_map(maps[MAP_UNTIL], &zero, &forever) < 0;
    for (int which = 0; which < MAP_COUNT; which++)
        failed |= maps[which] < 0;
    self->table = template;
    if (failed) {
        refuse("the kernel makes no maps for the filter");
        program_close_all(self);
        return -1;
    }
    self->program = load_program_or_say(maps);
    if (self->program < 0) {
        program_close_all(self);
        return -1;
    }
    return 0;
}

static void
program_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    program_close_all((Program *)object);
    release(object);
    Py_DECREF(type);
}

static bool
is_open(Program *self)
{
    if (self->program < 0)
        PyErr_SetString(PyExc_ValueError, "the program is closed");
    return self->program >= 0;
}

static PyObject *
program_load(PyObject *object, PyObject *value)
{
    Program *self = (Program *)object;
    const struct nlb_table *table = nlb_table_of(value);
    if (table == NULL || !is_open(self))
        return NULL;
    uint32_t zero = 0;
    int made, result = -1;
    Py_BEGIN_ALLOW_THREADS
    made = make_map(BPF_MAP_TYPE_ARRAY, 4, sizeof *table, 1, 0, -1, "nlb_table");
    if (made >= 0 && update_map(made, &zero, table) == 0)
        result = update_map(self->maps[MAP_TABLES], &zero, &made);
    Py_END_ALLOW_THREADS
    if (result < 0) {
        refuse("the kernel does not take the filter's new table");
        close_fd(&made);
        return NULL;
    }
    close_fd(&self->table);
    self->table = made;
    PyObject *former = self->loaded;
    self->loaded = Py_NewRef(value);
    Py_XDECREF(former);
    Py_RETURN_NONE;
}

static PyObject *
program_keep_until(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    unsigned long long ticks;
    if (!PyArg_ParseTuple(args, "K", &ticks) || !is_open(self))
        return NULL;
    uint32_t zero = 0;
    uint64_t until = ticks;
    if (update_map(self->maps[MAP_UNTIL], &zero, &until) < 0)
        return refuse("the kernel does not take the filter's deadman");
    Py_RETURN_NONE;
}

static PyObject *
program_attach(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    unsigned interface;
    int native;
    if (!PyArg_ParseTuple(args, "Ip", &interface, &native) || !is_open(self))
        return NULL;
    if (self->link >= 0) {
        PyErr_SetString(PyExc_ValueError, "the program is attached already");
        return NULL;
    }
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (uint32_t)self->program;
    attributes.link_create.target_ifindex = interface;
    attributes.link_create.attach_type = BPF_XDP;
    attributes.link_create.flags = native ? XDP_NATIVE : XDP_GENERIC;
    self->link = bpf(BPF_LINK_CREATE, &attributes);
    if (self->link < 0)
        return refuse("the kernel does not attach the filter");
    Py_RETURN_NONE;
}

static PyObject *
program_detach(PyObject *object, PyObject *unused)
{
    (void)unused;
    close_fd(&((Program *)object)->link);
    Py_RETURN_NONE;
}

static PyObject *
program_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    program_close_all((Program *)object);
    Py_RETURN_NONE;
}

/* 0: not attached, or the interface is gone. */
static PyObject *
program_interface(PyObject *object, PyObject *unused)
{
    (void)unused;
    Program *self = (Program *)object;
    struct bpf_link_info info;
    memset(&info, 0, sizeof info);
    if (self->link >= 0) {
        union bpf_attr attributes;
        memset(&attributes, 0, sizeof attributes);
        attributes.info.bpf_fd = (uint32_t)self->link;
        attributes.info.info_len = sizeof info;
        attributes.info.info = address_of(&info);
        if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) < 0)
            return refuse("the kernel does not tell of the filter's link");
    }
    return PyLong_FromUnsignedLong(self->link < 0 ? 0 : info.xdp.ifindex);
}

static PyObject *
program_info(int program)
{
    struct bpf_prog_info info;
    union bpf_attr attributes;
    memset(&info, 0, sizeof info);
    memset(&attributes, 0, sizeof attributes);
    attributes.info.bpf_fd = (uint32_t)program;
    attributes.info.info_len = sizeof info;
    attributes.info.info = address_of(&info);
    if (bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes) < 0)
        return refuse("the kernel does not tell of a program");
    info.name[sizeof info.name - 1] = '\0';
    return Py_BuildValue("Isb", info.id, info.name, (unsigned char)(info.jited_prog_len != 0));
}

static PyObject *
program_identity(PyObject *object, PyObject *unused)
{
    (void)unused;
    return is_open((Program *)object) ? program_info(((Program *)object)->program) : NULL;
}

static PyObject *
program_name_of(PyObject *object, PyObject *args)
{
    (void)object;
    union bpf_attr attributes;
    unsigned id;
    if (!PyArg_ParseTuple(args, "I", &id))
        return NULL;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_id = id;
    int program = bpf(BPF_PROG_GET_FD_BY_ID, &attributes);
    if (program < 0)
        return refuse("the kernel does not tell of a program");
    PyObject *result = program_info(program);
    close_fd(&program);
    return result;
}

/* A tuple of sums over all processors of so many numbers that begin at that byte of a processor's memory. */
static PyObject *
sums(Program *self, size_t begin, uint32_t count)
{
    if (!is_open(self))
        return NULL;
    /* The kernel rounds each processor's value up to eight bytes, which it is anyway. */
    struct nlb_cpu *values = calloc(self->processors, sizeof *values);
    if (values == NULL)
        return PyErr_NoMemory();
    uint32_t zero = 0;
    PyObject *result = NULL;
    if (lookup(self->maps[MAP_CPU], &zero, values) < 0)
        refuse("the filter's counters cannot be read");
    else
        result = PyTuple_New((Py_ssize_t)count);
    for (uint32_t at = 0; result != NULL && at < count; at++) {
        uint64_t sum = 0, one;
        for (unsigned processor = 0; processor < self->processors; processor++) {
            memcpy(&one, (const uint8_t *)&values[processor] + begin + at * sizeof one, sizeof one);
            sum += one;
        }
        PyObject *number = PyLong_FromUnsignedLongLong(sum);
        if (number == NULL || PyTuple_SetItem(result, (Py_ssize_t)at, number) < 0)
            Py_CLEAR(result);
    }
    free(values);
    return result;
}

static PyObject *
program_counters(PyObject *object, PyObject *unused)
{
    (void)unused;
    return sums((Program *)object, offsetof(struct nlb_cpu, counts), NLB_REASON_COUNT);
}

static PyObject *
program_rule_counters(PyObject *object, PyObject *unused)
{
    (void)unused;
    return sums((Program *)object, offsetof(struct nlb_cpu, rule_counts), 2 * NLB_RULE_COUNTS);
}

/* --- flows in the kernel ------------------------------------------------------------------------------------------ */

/* They are looked at and forgotten where they lie, while the program goes on: see core/nlb_sets.h. */

static const struct nlb_table *
loaded_table(const Program *self)
{
    return self->loaded == NULL ? NULL : nlb_table_of(self->loaded);
}

static uint32_t
places(const Program *self, uint32_t which)
{
    return self->loaded == NULL ? 0 : self->set_counts[which] * NLB_WAYS; /* Nothing is noted before the first table. */
}

static bool
read_place(const Program *self, const struct nlb_table *loaded, uint32_t which, uint32_t place, struct nlb_entry *entry)
{
    return nlb_read_place(loaded, &self->sets[which][place / NLB_WAYS], place % NLB_WAYS, entry);
}

static PyObject *
program_flows(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    unsigned limit;
    unsigned long long seen_before = UINT64_MAX;
    if (!PyArg_ParseTuple(args, "I|K", &limit, &seen_before) || !is_open(self))
        return NULL;
    const struct nlb_table *loaded = loaded_table(self);
    PyObject *result = PyList_New(0);
    struct nlb_entry entry;
    for (uint32_t which = 0; which < NLB_FLOW_TABLES; which++)
        for (uint32_t place = 0; result != NULL && place < places(self, which); place++) {
            if (!read_place(self, loaded, which, place, &entry) || entry.flow.seen_ticks >= seen_before)
                continue;
            if (PyList_Size(result) >= (Py_ssize_t)limit)
                break;
            PyObject *flow = nlb_flow_as_tuple(which, &entry.key, &entry.flow);
            if (flow == NULL || PyList_Append(result, flow) < 0)
                Py_CLEAR(result);
            Py_XDECREF(flow);
        }
    return result;
}

static PyObject *
program_count(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    PyObject *value;
    unsigned long long now_ticks;
    if (!PyArg_ParseTuple(args, "OK", &value, &now_ticks) || !is_open(self))
        return NULL;
    const struct nlb_table *table = nlb_table_of(value), *loaded = loaded_table(self);
    if (table == NULL)
        return NULL;
    uint32_t *counts = calloc(NLB_SLOTS * NLB_BUCKETS_MAX, sizeof *counts);
    if (counts == NULL)
        return PyErr_NoMemory();
    struct nlb_entry entry;
    for (uint32_t which = NLB_FLOWS_OPENING; which <= NLB_FLOWS_OPEN; which++)
        for (uint32_t place = 0; place < places(self, which); place++)
            if (read_place(self, loaded, which, place, &entry))
                nlb_count_flow(table, which, &entry.key, &entry.flow, now_ticks, counts);
    PyObject *result = nlb_counts_as_dict(counts);
    free(counts);
    return result;
}

/* The flow that Python names, and the table by which it is named; NULL with an exception. */
static const struct nlb_table *
read_flow(Program *self, PyObject *args, struct nlb_key *key)
{
    PyObject *value, *client, *server;
    unsigned client_port, server_port, protocol;
    if (!PyArg_ParseTuple(args, "OOIOII", &value, &client, &client_port, &server, &server_port, &protocol) ||
        !is_open(self) || !nlb_read_key(client, client_port, server, server_port, protocol, key))
        return NULL;
    return nlb_table_of(value);
}

/* What is known of one flow: (which, state, seen_ticks), or None. */
static PyObject *
program_flow(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    struct nlb_key key;
    struct nlb_flow flow;
    const struct nlb_table *table = read_flow(self, args, &key);
    if (table == NULL)
        return NULL;
    const uint32_t order[] = {NLB_FLOWS_OPEN, NLB_FLOWS_OPENING};
    for (int at = 0; at < 2; at++)
        if (nlb_find_in_sets(table, self->sets[order[at]], self->set_counts[order[at]], &key, &flow))
            return Py_BuildValue("IKK", order[at], (unsigned long long)flow.state,
                                 (unsigned long long)flow.seen_ticks);
    Py_RETURN_NONE;
}

/* Whether an open flow was there to be forgotten. One that is opening stays: its client has just begun anew. */
static PyObject *
program_forget(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    struct nlb_key key;
    struct nlb_flow flow;
    const struct nlb_table *table = read_flow(self, args, &key);
    if (table == NULL)
        return NULL;
    bool there = nlb_find_in_sets(table, self->sets[NLB_FLOWS_OPEN], self->set_counts[NLB_FLOWS_OPEN], &key, &flow);
    nlb_forget_in_sets(table, self->sets[NLB_FLOWS_OPEN], self->set_counts[NLB_FLOWS_OPEN], &key);
    return PyBool_FromLong(there);
}

static PyObject *
program_forget_flows(PyObject *object, PyObject *unused)
{
    (void)unused;
    Program *self = (Program *)object;
    if (!is_open(self))
        return NULL;
    /* What is empty already is left alone, so that it costs no memory before it is used. */
    for (uint32_t which = 0; which < NLB_FLOW_TABLES; which++)
        for (uint32_t place = 0; place < self->set_counts[which] * NLB_WAYS; place++) {
            volatile uint64_t *noted = &self->sets[which][place / NLB_WAYS].noted[place % NLB_WAYS];
            if (*noted != 0)
                *noted = 0;
        }
    Py_RETURN_NONE;
}

static PyObject *
program_test_run(PyObject *object, PyObject *args)
{
    Program *self = (Program *)object;
    Py_buffer frame;
    unsigned repeat = 1;
    if (!PyArg_ParseTuple(args, "y*|I", &frame, &repeat))
        return NULL;
    if (!is_open(self)) {
        PyBuffer_Release(&frame);
        return NULL;
    }
    uint8_t out[FRAME_BYTES_MAX];
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.test.prog_fd = (uint32_t)self->program;
    attributes.test.data_in = address_of(frame.buf);
    attributes.test.data_size_in = (uint32_t)frame.len;
    attributes.test.data_out = address_of(out);
    attributes.test.data_size_out = sizeof out;
    attributes.test.repeat = repeat;
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = bpf(BPF_PROG_TEST_RUN, &attributes);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&frame);
    if (result < 0)
        return refuse("the kernel does not run the filter for a test");
    uint32_t length = attributes.test.data_size_out < sizeof out ? attributes.test.data_size_out : sizeof out;
    return Py_BuildValue("IIy#", attributes.test.retval, attributes.test.duration, (const char *)out,
                         (Py_ssize_t)length);
}

/* One half of the kernel's count of ticks, as a program of its own returns it: there is no other way to read it. */
static int
read_ticks(int upper, uint32_t *half)
{
    const struct bpf_insn instructions[] = {
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_jiffies64},
        {.code = BPF_ALU64 | BPF_RSH | BPF_K, .dst_reg = BPF_REG_0, .imm = upper ? 32 : 0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    const uint8_t frame[64] = {0};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_XDP;
    attributes.insn_cnt = sizeof instructions / sizeof *instructions;
    attributes.insns = address_of(instructions);
    attributes.license = address_of("none");
    int program = bpf(BPF_PROG_LOAD, &attributes);
    if (program < 0)
        return -1;
    memset(&attributes, 0, sizeof attributes);
    attributes.test.prog_fd = (uint32_t)program;
    attributes.test.data_in = address_of(frame);
    attributes.test.data_size_in = sizeof frame;
    attributes.test.repeat = 1;
    int result = bpf(BPF_PROG_TEST_RUN, &attributes);
    *half = attributes.test.retval;
    close_fd(&program);
    return result;
}

static PyObject *
program_ticks(PyObject *object, PyObject *unused)
{
    (void)object;
    (void)unused;
    uint32_t lower, upper, again;
    do {
        if (read_ticks(1, &upper) < 0 || read_ticks(0, &lower) < 0 || read_ticks(1, &again) < 0)
            return refuse("the kernel's ticks cannot be read");
    } while (upper != again);
    return PyLong_FromUnsignedLongLong((uint64_t)upper << 32 | lower);
}

static PyMethodDef program_methods[] = {
    {"load", program_load, METH_O, "load(table): replace the table; afterwards no packet meets the old one."},
    {"attach", program_attach, METH_VARARGS, "attach(interface's index, native)"},
    {"detach", program_detach, METH_NOARGS, "detach(): harmless when not attached."},
    {"close", program_close, METH_NOARGS, "close(): detach, and give everything back."},
    {"interface", program_interface, METH_NOARGS, "interface() -> index it is attached to; 0: none."},
    {"identity", program_identity, METH_NOARGS, "identity() -> (id, name, compiled to machine code) in the kernel."},
    {"identity_of", program_name_of, METH_VARARGS | METH_STATIC,
     "identity_of(id) -> (id, name, compiled) of any program."},
    {"keep_until", program_keep_until, METH_VARARGS, "keep_until(ticks): accept nothing when the kernel has counted more."},
    {"ticks", program_ticks, METH_NOARGS | METH_STATIC, "ticks() -> the kernel's count of ticks, as flows have it."},
    {"counters", program_counters, METH_NOARGS, "counters() -> packets by reason, in the order of NLB_REASONS."},
    {"rule_counters", program_rule_counters, METH_NOARGS,
     "rule_counters() -> for each of 128 counters the packets accepted and those dropped, one after the other."},
    {"flows", program_flows, METH_VARARGS, "flows(limit, seen_before=2**64-1) -> list of flows, of those noted before that tick."},
    {"forget", program_forget, METH_VARARGS,
     "forget(table, client, port, server, port, protocol) -> whether an open flow was there."},
    {"count", program_count, METH_VARARGS, "count(table, now_ticks) -> {(slot, bucket): flows}"},
    {"flow", program_flow, METH_VARARGS,
     "flow(table, client, port, server, port, protocol) -> (which, state, seen_ticks) or None"},
    {"forget_flows", program_forget_flows, METH_NOARGS, "forget_flows()"},
    {"test_run", program_test_run, METH_VARARGS, "test_run(frame, repeat=1) -> (XDP verdict, ns per run, frame)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot program_slots[] = {
    {Py_tp_doc, "NlbProgram(*, open_sets, sharing=None): the filter in the kernel."},
    {Py_tp_new, program_new},
    {Py_tp_init, program_init},
    {Py_tp_dealloc, program_dealloc},
    {Py_tp_methods, program_methods},
    {0, NULL},
};

static PyType_Spec program_spec = {
    .name = "clussvc.native._native.NlbProgram",
    .basicsize = sizeof(Program),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = program_slots,
};

PyObject *
nlb_program_type(void)
{
    return PyType_FromSpec(&program_spec);
}
