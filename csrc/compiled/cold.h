/* cold.h - what compiled Python calls when something is wrong.
 *
 * Half of what mypyc writes is what follows an exception: give back what is held, note the line for the traceback, return an error.
 * It stands between the lines of what normally happens, so of each line of code that the CPU fetches half is never used; and
 * what a node does in a step it fetches from far away, as hardly any of it is in a cache since the last one. A compiler that knows
 * that these functions are hardly ever called moves whatever leads to a call of them out of the way (`-freorder-blocks-and-partition`).
 *
 * Included behind mypyc's own headers, which declare them.
 */
#ifndef UM_COLD_H
#define UM_COLD_H
#define UM_COLD __attribute__((cold))
extern UM_COLD void CPy_AddTraceback(const char *, const char *, int, PyObject *);
extern UM_COLD void CPy_AttributeError(const char *, const char *, const char *, const char *, int, PyObject *);
extern UM_COLD void CPy_DecRef(PyObject *);   /* mypyc's, of what an error leaves behind; elsewhere it writes CPy_DECREF */
extern UM_COLD void CPy_TypeError(const char *, PyObject *);
extern UM_COLD void CPy_TypeErrorTraceback(const char *, const char *, int, PyObject *, const char *, PyObject *);
extern UM_COLD void PyErr_SetString(PyObject *, const char *);
#undef UM_COLD
#endif
