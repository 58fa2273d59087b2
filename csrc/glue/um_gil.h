/* um_gil.h - the interpreter's lock, while C works. For the code that cffi writes between Python and C, and for nothing else.
 *
 * cffi lets go of the lock around every call, which costs 1,400 instructions: as much as a short kernel. A node has one
 * thread that decides; its other threads are C's and want no lock, but for the one that answers operators. So only
 * calls that wait, or work in proportion to a state, let go of it: tools/build_native.py has their names, as
 * UM_TAKES_LONG(name).
 *
 * cffi's code opens and closes each call with these two macros. (If it ever did so with others, it would let go
 * again around every call, and nothing else would change.)
 */
#ifndef UM_GIL_H
#define UM_GIL_H
#include <string.h>

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
/* The compiler knows __func__, and does the comparing. */
#define Py_BEGIN_ALLOW_THREADS                                                       \
    {                                                                                \
        PyThreadState *um_saved = UM_TAKES_LONG(__func__) ? PyEval_SaveThread() : NULL;
#define Py_END_ALLOW_THREADS                                      \
        if (um_saved != NULL) PyEval_RestoreThread(um_saved);     \
    }
#endif
