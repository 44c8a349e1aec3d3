/* What the files of the extension show each other. */

#ifndef CLUSSVC_NATIVE_H
#define CLUSSVC_NATIVE_H

#include <Python.h>

/* A new reference to the type Heartbeats, or NULL with an exception set. */
PyObject *native_heartbeats_type(void);

#endif
