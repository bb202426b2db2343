/* Types whose objects only the core makes. */
#ifndef EVTAPE_INSTANTIATION_H
#define EVTAPE_INSTANTIATION_H

#include <Python.h>

static inline PyObject *evtape_refuse(PyTypeObject *kind, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    PyErr_Format(PyExc_TypeError, "cannot create '%s' instances", kind->tp_name);
    return NULL;
}

/* `kind()` and `kind.__new__(kind)` raise TypeError. Cython makes an object by the function that it
 * wrote, not through the slot. */
static inline void evtape_forbid_instantiation(PyObject *kind) {
    ((PyTypeObject *)kind)->tp_new = evtape_refuse;
    ((PyTypeObject *)kind)->tp_vectorcall = NULL;
}

#endif
