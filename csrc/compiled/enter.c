/* enter.c - the one door of the library that tools/build_compiled.py links.
 *
 * mypyc leaves the entry of every compiled module in a capsule of the library, and expects one small extension per module that
 * calls it: more than a hundred files to link and to load. This module stands for all of them: `init(capsule)`
 * makes the module that the capsule is the entry of. unimeter/compiled.py calls it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef PyObject *(*entry_t)(void);

static PyObject *init(PyObject *self, PyObject *capsule) {
  (void)self;
  void *found = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
  if (!found) return NULL;
  entry_t entry;
  memcpy(&entry, &found, sizeof entry); /* ISO C knows no cast from data to code */
  return entry();
}

static PyMethodDef methods[] = {
    {"init", init, METH_O, "init(capsule) -> the module whose entry the capsule holds"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "unimeter_enter", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_unimeter_enter(void) { return PyModule_Create(&definition); }
