/* Types of which only the core creates objects. */
#ifndef EVTAPE_INSTANTIATION_H
#define EVTAPE_INSTANTIATION_H

#include <Python.h>

static inline PyObject *evtape_refuse(PyTypeObject *kind, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    PyErr_Format(PyExc_TypeError, "cannot create '%s' instances", kind->tp_name);
    return NULL;
}

/* Makes `kind()` and `kind.__new__(kind)` raise TypeError. Cython creates objects with a function
 * of its own and does not use this slot. */
static inline void evtape_forbid_instantiation(PyObject *kind) {
    ((PyTypeObject *)kind)->tp_new = evtape_refuse;
    ((PyTypeObject *)kind)->tp_vectorcall = NULL;
}

#endif
