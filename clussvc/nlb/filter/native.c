/*
 * The packet filter in the extension: tables made from Python values, single decisions with their explanation, batches
 * of decisions without the interpreter's lock, and flow tables to go with them.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include "filter.h"

#include "nlb_flows.h"
#include "nlb_sets.h"
#include "nlb_table.h"

#include "nlb_filter.c"

#define FLOWS_MAX (1u << 22)

static PyObject *table_type;

/* --- NlbTable ----------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct nlb_table *table;
} Table;

const struct nlb_table *
nlb_table_of(PyObject *object)
{
    int fits = PyObject_IsInstance(object, table_type);
    if (fits < 0)
        return NULL;
    const struct nlb_table *table = fits ? ((Table *)object)->table : NULL;
    if (table == NULL)
        PyErr_SetString(PyExc_TypeError, "an NlbTable is needed");
    return table;
}

static bool
read_address(PyObject *value, struct nlb_address *address)
{
    char *bytes;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(value, &bytes, &length) < 0)
        return false;
    if (length != 16) {
        PyErr_SetString(PyExc_ValueError, "an address must have 16 bytes");
        return false;
    }
    memcpy(address, bytes, 16);
    return true;
}

static bool
read_addresses(PyObject *values, struct nlb_address *addresses, size_t *count)
{
    Py_ssize_t given = PyTuple_Size(values);
    if (given < 0)
        return false;
    if (given > NLB_ADDRESSES_MAX) {
        PyErr_SetString(PyExc_ValueError, "there are more than 64 virtual or dedicated addresses");
        return false;
    }
    for (Py_ssize_t at = 0; at < given; at++)
        if (!read_address(PyTuple_GetItem(values, at), &addresses[at]))
            return false;
    *count = (size_t)given;
    return true;
}

static bool
has_length(Py_ssize_t length, uint32_t wanted, const char *what)
{
    if (length == (Py_ssize_t)wanted)
        return true;
    PyErr_Format(PyExc_ValueError, "%s must have %u bytes, not %zd", what, wanted, length);
    return false;
}

static bool
read_rules(PyObject *values, struct nlb_setup *setup, struct nlb_setup_rule *rules)
{
    Py_ssize_t given = PyTuple_Size(values);
    if (given < 0)
        return false;
    if (given > NLB_RULES_MAX) {
        PyErr_SetString(PyExc_ValueError, "there are more than 32 rules");
        return false;
    }
    for (Py_ssize_t at = 0; at < given; at++) {
        struct nlb_setup_rule *rule = &rules[at];
        PyObject *address, *value = PyTuple_GetItem(values, at);
        const char *cells;
        Py_ssize_t length;
        if (!PyTuple_Check(value)) {
            PyErr_SetString(PyExc_TypeError, "a rule must be a tuple");
            return false;
        }
        if (!PyArg_ParseTuple(value, "OIIbbbbby#", &address, &rule->first_port, &rule->last_port, &rule->protocol,
                              &rule->mode, &rule->affinity, &rule->flags, &rule->counter, &cells, &length) ||
            !has_length(length, setup->buckets, "the owners of a rule's buckets"))
            return false;
        rule->cells = (const uint8_t *)cells;
        rule->for_all = address == Py_None;
        if (!rule->for_all && !read_address(address, &rule->address))
            return false;
    }
    setup->rule_count = (size_t)given;
    setup->rules = rules;
    return true;
}

static int
table_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"generation",    "seed",        "buckets",          "host",        "state",
                            "flags",         "cluster_mac", "own_mac",          "times_ticks", "virtual",
                            "dedicated",     "rules",       "default_cells",    "default_flags", "default_counter",
                            "open_sets",     NULL};
    Table *self = (Table *)object;
    struct nlb_setup setup = {0};
    struct nlb_setup_rule rules[NLB_RULES_MAX] = {0};
    struct nlb_address virtual_addresses[NLB_ADDRESSES_MAX], dedicated_addresses[NLB_ADDRESSES_MAX];
    unsigned long long generation, times[7];
    const char *seed, *cluster_mac, *own_mac, *default_cells;
    Py_ssize_t seed_length, cluster_length, own_length, default_length;
    PyObject *virtual_values, *dedicated_values, *rule_values;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$Ky#IIIIy#y#(KKKKKKK)O!O!O!y#bbI", names, &generation, &seed, &seed_length, &setup.buckets,
            &setup.self, &setup.state, &setup.flags, &cluster_mac, &cluster_length, &own_mac, &own_length,
            &times[0], &times[1], &times[2], &times[3], &times[4], &times[5], &times[6], &PyTuple_Type, &virtual_values,
            &PyTuple_Type, &dedicated_values, &PyTuple_Type, &rule_values, &default_cells, &default_length,
            &setup.default_flags, &setup.default_counter, &setup.open_sets))
        return -1;
    if (!has_length(seed_length, 16, "the seed") || !has_length(cluster_length, 6, "a link address") ||
        !has_length(own_length, 6, "a link address") ||
        !has_length(default_length, setup.buckets, "the owners of the default rule's buckets") ||
        !read_addresses(virtual_values, virtual_addresses, &setup.virtual_count) ||
        !read_addresses(dedicated_values, dedicated_addresses, &setup.dedicated_count) ||
        !read_rules(rule_values, &setup, rules))
        return -1;
    setup.generation = generation;
    for (int half = 0; half < 2; half++)
        setup.seed[half] = load_le64((const uint8_t *)seed + 8 * half);
    memcpy(setup.cluster_mac, cluster_mac, 6);
    memcpy(setup.own_mac, own_mac, 6);
    setup.opening_ticks = times[0];
    setup.idle_ticks = times[1];
    setup.closing_ticks = times[2];
    setup.gre_ticks = times[3];
    setup.ipsec_ticks = times[4];
    setup.fragment_ticks = times[5];
    setup.touch_ticks = times[6];
    setup.virtual_addresses = virtual_addresses;
    setup.dedicated_addresses = dedicated_addresses;
    setup.default_cells = (const uint8_t *)default_cells;
    struct nlb_table *table = malloc(sizeof *table);
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    const char *problem = nlb_table_build(table, &setup);
    if (problem != NULL || self->table != NULL) {
        free(table);
        PyErr_SetString(PyExc_ValueError, problem != NULL ? problem : "an NlbTable never changes");
        return -1;
    }
    self->table = table;
    return 0;
}

static void
free_object(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static void
table_dealloc(PyObject *object)
{
    free(((Table *)object)->table);
    free_object(object);
}

/* --- NlbFlows ----------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct nlb_flows flows;
    bool made;
} Flows;

static PyObject *flows_type;

static int
flows_init(PyObject *object, PyObject *args)
{
    Flows *self = (Flows *)object;
    unsigned capacity;
    if (!PyArg_ParseTuple(args, "I", &capacity))
        return -1;
    if (self->made || capacity < NLB_PROBES || capacity > FLOWS_MAX || (capacity & (capacity - 1))) {
        PyErr_SetString(PyExc_ValueError, "the capacity must be a power of two in 16..4194304");
        return -1;
    }
    if (!nlb_flows_init(&self->flows, capacity)) {
        PyErr_NoMemory();
        return -1;
    }
    self->made = true;
    return 0;
}

static void
flows_dealloc(PyObject *object)
{
    free(((Flows *)object)->flows.entries);
    free_object(object);
}

PyObject *
nlb_flow_as_tuple(uint32_t which, const struct nlb_key *key, const struct nlb_flow *flow)
{
    return Py_BuildValue("Iy#Hy#HbKK", which, (const char *)&key->client, (Py_ssize_t)16, key->client_port,
                         (const char *)&key->server, (Py_ssize_t)16, key->server_port, key->protocol,
                         (unsigned long long)flow->state, (unsigned long long)flow->seen_ticks);
}

void
nlb_count_flow(const struct nlb_table *table, uint32_t which, const struct nlb_key *key, const struct nlb_flow *flow,
               uint64_t now_ticks, uint32_t *counts)
{
    if (which == NLB_FLOWS_FRAGMENTS || nlb_flow_state(table, key, flow, now_ticks) == NLB_UNKNOWN)
        return;
    struct nlb_work work = {.packet = {.key = *key}};
    if (!nlb_is_ipv4(key->client) || !nlb_is_ipv4(key->server))
        work.packet.flags = NLB_PACKET_IPV6;
    nlb_classify(&work.packet, key->protocol);
    /* What passes through the cluster is for an address that the table does not know, and has the first list. In a
       reversed instance the address of ours, if it is one, is the client's. */
    struct nlb_address ours = table->flags & NLB_FLAG_REVERSE ? key->client : key->server;
    uint32_t number = table->places[nlb_fold(table->fold, ours) & (NLB_FOLDS - 1)];
    if (number < NLB_TARGETS && table->targets[number].sort == NLB_VIRTUAL &&
        nlb_same_address(table->targets[number].address, ours))
        work.packet.list = table->targets[number].list;
    nlb_place(table, &work);
    counts[work.decision.slot * NLB_BUCKETS_MAX + work.decision.bucket]++;
}

PyObject *
nlb_counts_as_dict(const uint32_t *counts)
{
    PyObject *result = PyDict_New();
    for (uint32_t at = 0; result != NULL && at < NLB_SLOTS * NLB_BUCKETS_MAX; at++) {
        if (counts[at] == 0)
            continue;
        PyObject *key = Py_BuildValue("II", at / NLB_BUCKETS_MAX, at % NLB_BUCKETS_MAX);
        PyObject *count = PyLong_FromUnsignedLong(counts[at]);
        if (key == NULL || count == NULL || PyDict_SetItem(result, key, count) < 0)
            Py_CLEAR(result);
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    return result;
}

bool
nlb_read_key(PyObject *client, unsigned client_port, PyObject *server, unsigned server_port, unsigned protocol,
             struct nlb_key *key)
{
    memset(key, 0, sizeof *key);
    if (!read_address(client, &key->client) || !read_address(server, &key->server))
        return false;
    if (client_port > 65535 || server_port > 65535 || protocol > 255) {
        PyErr_SetString(PyExc_ValueError, "a port or the protocol is out of range");
        return false;
    }
    key->client_port = (uint16_t)client_port;
    key->server_port = (uint16_t)server_port;
    key->protocol = (uint8_t)protocol;
    return true;
}

/* The key that a name of IPv4 has in it. */
static void
key_of_name(uint64_t high, uint64_t low, struct nlb_key *key)
{
    __builtin_memset(key, 0, sizeof *key);
    key->client.low = NLB_IPV4_LOW((uint32_t)(high >> 32));
    key->server.low = NLB_IPV4_LOW((uint32_t)high);
    key->client_port = (uint16_t)(low >> 48);
    key->server_port = (uint16_t)(low >> 32);
    key->protocol = (uint8_t)(low >> 24);
    key->fragments = (uint8_t)(low >> 16);
}

bool
nlb_read_place(const struct nlb_table *table, const struct nlb_set *set, uint32_t way, struct nlb_entry *entry)
{
    uint64_t noted = NLB_NOTED_ONCE(set, way), high = set->names[way].high, low = set->names[way].low;
    struct nlb_name name = {high, low, 0};
    if (noted == 0)
        return false;
    entry->flow = nlb_noted_flow(noted);
    if (nlb_is_hashed(&name))
        entry->key = set->keys[way];
    else
        key_of_name(high, low, &entry->key);
    nlb_name_flow(table, &entry->key, &name);
    return nlb_set_has(set, way, noted, &name);
}

bool
nlb_find_in_sets(const struct nlb_table *table, const struct nlb_set *sets, uint32_t count, const struct nlb_key *key,
                 struct nlb_flow *flow)
{
    struct nlb_name name;
    nlb_name_flow(table, key, &name);
    uint64_t noted = nlb_set_find(&sets[nlb_set_number(&name, count)], &name);
    *flow = nlb_noted_flow(noted);
    return noted != 0;
}

void
nlb_forget_in_sets(const struct nlb_table *table, struct nlb_set *sets, uint32_t count, const struct nlb_key *key)
{
    struct nlb_name name;
    nlb_name_flow(table, key, &name);
    nlb_set_forget(&sets[nlb_set_number(&name, count)], &name);
}

static PyObject *
flows_put(PyObject *object, PyObject *args)
{
    Flows *self = (Flows *)object;
    PyObject *client, *server;
    unsigned which, client_port, server_port, protocol;
    unsigned long long state, seen_ticks;
    struct nlb_key key;
    struct nlb_name name = {0, 0, 0}; /* These tables go by the key. */
    if (!PyArg_ParseTuple(args, "IOIOIIKK", &which, &client, &client_port, &server, &server_port, &protocol, &state,
                          &seen_ticks) ||
        !nlb_read_key(client, client_port, server, server_port, protocol, &key))
        return NULL;
    if (which >= NLB_FLOW_TABLES || state < NLB_OPENING || state > NLB_FRAGMENT_DROPPED) {
        PyErr_SetString(PyExc_ValueError, "there is no such flow table or state");
        return NULL;
    }
    key.fragments = which == NLB_FLOWS_FRAGMENTS;
    struct nlb_flow flow = {seen_ticks, state};
    nlb_flow_put(&self->flows, which, &key, &name, &flow);
    Py_RETURN_NONE;
}

static PyObject *
flows_entries(PyObject *object, PyObject *unused)
{
    (void)unused;
    Flows *self = (Flows *)object;
    PyObject *result = PyList_New(0);
    for (size_t at = 0; result != NULL && at < self->flows.capacity * NLB_FLOW_TABLES; at++) {
        struct nlb_flow_entry *entry = &self->flows.entries[at];
        if (entry->flow.state == 0)
            continue;
        PyObject *flow = nlb_flow_as_tuple((uint32_t)(at / self->flows.capacity), &entry->key, &entry->flow);
        if (flow == NULL || PyList_Append(result, flow) < 0)
            Py_CLEAR(result);
        Py_XDECREF(flow);
    }
    return result;
}

static PyObject *
flows_count(PyObject *object, PyObject *args)
{
    Flows *self = (Flows *)object;
    PyObject *value;
    unsigned long long now_ticks;
    if (!PyArg_ParseTuple(args, "OK", &value, &now_ticks))
        return NULL;
    const struct nlb_table *table = nlb_table_of(value);
    if (table == NULL)
        return NULL;
    uint32_t *counts = calloc(NLB_SLOTS * NLB_BUCKETS_MAX, sizeof *counts);
    if (counts == NULL)
        return PyErr_NoMemory();
    for (size_t at = 0; at < self->flows.capacity * NLB_FLOW_TABLES; at++) {
        struct nlb_flow_entry *entry = &self->flows.entries[at];
        if (entry->flow.state != 0)
            nlb_count_flow(table, (uint32_t)(at / self->flows.capacity), &entry->key, &entry->flow, now_ticks, counts);
    }
    PyObject *result = nlb_counts_as_dict(counts);
    free(counts);
    return result;
}

/* --- decisions ---------------------------------------------------------------------------------------------------- */

static bool
read_flows(PyObject *value, unsigned long long now_ticks, struct nlb_flows **flows)
{
    *flows = NULL;
    if (value == NULL || value == Py_None)
        return true;
    int fits = PyObject_IsInstance(value, flows_type);
    if (fits <= 0 || !((Flows *)value)->made) {
        if (fits >= 0)
            PyErr_SetString(PyExc_TypeError, "flows must be an NlbFlows or None");
        return false;
    }
    *flows = &((Flows *)value)->flows;
    (*flows)->now_ticks = now_ticks;
    return true;
}

static PyObject *
table_decide(PyObject *object, PyObject *args)
{
    const struct nlb_table *table = nlb_table_of(object);
    Py_buffer frame;
    PyObject *value = NULL;
    unsigned long long now_ticks = 0;
    struct nlb_flows *flows;
    if (table == NULL || !PyArg_ParseTuple(args, "y*|OK", &frame, &value, &now_ticks))
        return NULL;
    if (!read_flows(value, now_ticks, &flows)) {
        PyBuffer_Release(&frame);
        return NULL;
    }
    struct nlb_work work;
    nlb_decide(table, flows, frame.buf, (const uint8_t *)frame.buf + frame.len, &work);
    PyBuffer_Release(&frame);
    struct nlb_decision d = work.decision;
    return Py_BuildValue("bbbbHbbb", d.verdict, d.reason, d.slot, d.owner, d.bucket, d.rewrite, d.known, d.note);
}

static PyObject *
table_decide_batch(PyObject *object, PyObject *args)
{
    const struct nlb_table *table = nlb_table_of(object);
    Py_buffer frames, ends, out;
    PyObject *value = NULL;
    unsigned long long now_ticks = 0;
    struct nlb_flows *flows;
    if (table == NULL || !PyArg_ParseTuple(args, "y*y*w*|OK", &frames, &ends, &out, &value, &now_ticks))
        return NULL;
    size_t count = (size_t)ends.len / sizeof(uint32_t), at = 0;
    const char *problem = NULL;
    if (!read_flows(value, now_ticks, &flows))
        problem = "";
    else if ((size_t)ends.len % sizeof(uint32_t) != 0 || (size_t)out.len != count * 4)
        problem = "ends must be 32-bit numbers, and out have four bytes for each of them";
    else {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *data = frames.buf, *frame = data;
        uint8_t *written = out.buf;
        uint32_t end;
        for (; at < count; at++) {
            struct nlb_work work;
            memcpy(&end, (const uint8_t *)ends.buf + at * sizeof end, sizeof end);
            if (end > (size_t)frames.len || data + end < frame)
                break;
            nlb_decide(table, flows, frame, data + end, &work);
            written[0] = work.decision.verdict;
            written[1] = work.decision.reason;
            written[2] = work.decision.owner;
            written[3] = work.decision.slot;
            written += 4;
            frame = data + end;
        }
        Py_END_ALLOW_THREADS
        if (at < count)
            problem = "the ends of the frames must ascend and lie within them";
    }
    PyBuffer_Release(&frames);
    PyBuffer_Release(&ends);
    PyBuffer_Release(&out);
    if (problem != NULL && *problem != '\0')
        PyErr_SetString(PyExc_ValueError, problem);
    return problem != NULL ? NULL : PyLong_FromSize_t(count);
}

static PyObject *
table_generation(PyObject *object, void *unused)
{
    (void)unused;
    const struct nlb_table *table = nlb_table_of(object);
    return table == NULL ? NULL : PyLong_FromUnsignedLongLong(table->generation);
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static PyMethodDef table_methods[] = {
    {"decide", table_decide, METH_VARARGS,
     "decide(frame, flows=None, now_ticks=0) -> (verdict, reason, slot, owner, bucket, rewrite, known, note)"},
    {"decide_batch", table_decide_batch, METH_VARARGS,
     "decide_batch(frames, ends, out, flows=None, now_ticks=0) -> count; without the interpreter's lock."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef table_attributes[] = {
    {"generation", table_generation, NULL, "The number that the maker gave it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, "All that decisions depend on besides packets and flows; never changes. See core/nlb_structs.h."},
    {Py_tp_init, table_init},
    {Py_tp_dealloc, table_dealloc},
    {Py_tp_methods, table_methods},
    {Py_tp_getset, table_attributes},
    {0, NULL},
};

static PyType_Spec table_spec = {
    .name = "clussvc.native._native.NlbTable",
    .basicsize = sizeof(Table),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = table_slots,
};

static PyMethodDef flows_methods[] = {
    {"entries", flows_entries, METH_NOARGS, "entries() -> list of flows."},
    {"put", flows_put, METH_VARARGS, "put(which, client, port, server, port, protocol, state, seen_ticks)"},
    {"count", flows_count, METH_VARARGS, "count(table, now_ticks) -> {(slot, bucket): flows}"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot flows_slots[] = {
    {Py_tp_doc, "NlbFlows(capacity): flow tables in ordinary memory, for decisions outside the kernel."},
    {Py_tp_init, flows_init},
    {Py_tp_dealloc, flows_dealloc},
    {Py_tp_methods, flows_methods},
    {0, NULL},
};

static PyType_Spec flows_spec = {
    .name = "clussvc.native._native.NlbFlows",
    .basicsize = sizeof(Flows),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = flows_slots,
};

#define NLB_REASON_TEXT(name, verdict, text) text,
static const char *const reason_names[] = {NLB_REASONS(NLB_REASON_TEXT)};

int
nlb_add_types(PyObject *module)
{
    table_type = PyType_FromSpec(&table_spec);
    flows_type = PyType_FromSpec(&flows_spec);
    PyObject *program_type = nlb_program_type(), *reasons = PyTuple_New(NLB_REASON_COUNT);
    int result = table_type == NULL || flows_type == NULL || program_type == NULL || reasons == NULL ? -1 : 0;
    for (int at = 0; result == 0 && at < NLB_REASON_COUNT; at++) {
        PyObject *text = PyUnicode_FromString(reason_names[at]);
        result = text == NULL ? -1 : PyTuple_SetItem(reasons, at, text);
    }
    if (result == 0 && (PyModule_AddObjectRef(module, "NlbTable", table_type) < 0 ||
                        PyModule_AddObjectRef(module, "NlbFlows", flows_type) < 0 ||
                        PyModule_AddObjectRef(module, "NlbProgram", program_type) < 0 ||
                        PyModule_AddObjectRef(module, "NLB_REASONS", reasons) < 0))
        result = -1;
    Py_XDECREF(program_type);
    Py_XDECREF(reasons);
    return result;
}
