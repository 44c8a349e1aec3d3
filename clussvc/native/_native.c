/*
 * clussvc.native._native: what has to be fast or is not to be had in Python.
 *
 * crc32c      The Castagnoli checksum that guards every record of the journal and the snapshots. The SSE 4.2 instruction
 *             where the processor has it (asked at run time), eight tables otherwise; both give the same values.
 * siphash128  The keyed tag of heartbeats.
 * Heartbeats  Sends and receives heartbeats in a thread of its own (heartbeat_thread.c, heartbeat_core.c).
 * NlbTable, NlbFlows, NlbProgram
 *             The packet filter of Network Load Balancing (clussvc/nlb/filter).
 * lock_memory Keeps the pages of this process in memory.
 *
 * Limited API of CPython 3.11, so one binary serves later versions too.
 */

#define _GNU_SOURCE
#include <Python.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "filter.h"
#include "native.h"
#include "siphash.h"

/* --- CRC-32C ------------------------------------------------------------------------------------------------------ */

static uint32_t crc_tables[8][256];

static void
crc_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0); /* The polynomial 0x1edc6f41, reflected. */
        crc_tables[0][byte] = crc;
    }
    for (int table = 1; table < 8; table++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = crc_tables[table - 1][byte];
            crc_tables[table][byte] = (before >> 8) ^ crc_tables[0][before & 0xff];
        }
}

static uint32_t
crc_by_tables(uint32_t crc, const uint8_t *data, size_t length)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word = load_le64(data) ^ crc;
        crc = crc_tables[7][word & 0xff] ^ crc_tables[6][(word >> 8) & 0xff] ^ crc_tables[5][(word >> 16) & 0xff] ^
              crc_tables[4][(word >> 24) & 0xff] ^ crc_tables[3][(word >> 32) & 0xff] ^
              crc_tables[2][(word >> 40) & 0xff] ^ crc_tables[1][(word >> 48) & 0xff] ^ crc_tables[0][word >> 56];
    }
    for (; length; data++, length--)
        crc = (crc >> 8) ^ crc_tables[0][(crc ^ *data) & 0xff];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
crc_by_instruction(uint32_t crc, const uint8_t *data, size_t length)
{
    uint64_t wide = crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; length; data++, length--)
        crc = __builtin_ia32_crc32qi(crc, *data);
    return crc;
}
#endif

static uint32_t (*crc_update)(uint32_t, const uint8_t *, size_t) = crc_by_tables;

static PyObject *
crc_call(PyObject *args, uint32_t (*update)(uint32_t, const uint8_t *, size_t))
{
    Py_buffer data;
    unsigned long crc = 0;
    if (!PyArg_ParseTuple(args, "y*|k", &data, &crc))
        return NULL;
    if (crc > 0xfffffffful) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "crc must fit into 32 bits");
        return NULL;
    }
    uint32_t result;
    if (data.len > 65536) {
        /* Long data: let other threads run meanwhile. The buffer is held, so it can neither move nor vanish. */
        Py_BEGIN_ALLOW_THREADS
        result = ~update(~(uint32_t)crc, data.buf, (size_t)data.len);
        Py_END_ALLOW_THREADS
    } else
        result = ~update(~(uint32_t)crc, data.buf, (size_t)data.len);
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(result);
}

static PyObject *
py_crc32c(PyObject *module, PyObject *args)
{
    (void)module;
    return crc_call(args, crc_update);
}

static PyObject *
py_crc32c_by_tables(PyObject *module, PyObject *args)
{
    (void)module;
    return crc_call(args, crc_by_tables);
}

/* --- SipHash-2-4-128 ---------------------------------------------------------------------------------------------- */

static PyObject *
py_siphash128(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer key, data;
    if (!PyArg_ParseTuple(args, "y*y*", &key, &data))
        return NULL;
    PyObject *result = NULL;
    if (key.len != 16)
        PyErr_SetString(PyExc_ValueError, "the key must have 16 bytes");
    else {
        uint8_t tag[16];
        siphash128(key.buf, data.buf, (size_t)data.len, tag);
        result = PyBytes_FromStringAndSize((const char *)tag, sizeof tag);
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&data);
    return result;
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

/* With a limit on locked memory, every later allocation beyond it would fail; then nothing is locked. */
static PyObject *
py_lock_memory(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY}, limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0 ||
        (limit.rlim_cur != RLIM_INFINITY && setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0))
        return PyUnicode_FromString(strerror(errno));
    /* Only pages that are used: stacks are large and mostly empty. */
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        return PyUnicode_FromString(strerror(errno));
    return PyUnicode_FromString("");
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"crc32c", py_crc32c, METH_VARARGS, "crc32c(data, crc=0) -> int"},
    {"crc32c_by_tables", py_crc32c_by_tables, METH_VARARGS, "The same without the processor's instruction."},
    {"siphash128", py_siphash128, METH_VARARGS, "siphash128(key, data) -> bytes"},
    {"lock_memory", py_lock_memory, METH_NOARGS, "lock_memory() -> why memory could not be locked, or ''."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "clussvc.native._native",
    .m_doc = "Checksums, tags and heartbeats in C.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    crc_prepare();
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        crc_update = crc_by_instruction;
#endif
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module != NULL ? native_heartbeats_type() : NULL;
    if (type == NULL || PyModule_AddObjectRef(module, "Heartbeats", type) < 0)
        Py_CLEAR(module);
    if (module != NULL && nlb_add_types(module) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}
