"""Run a command under a filter that refuses some system calls, as the filters of containers do (seccomp, x86-64).

python -m tests.refused_calls 206:1,209:38 command...      system call number:errno, ...
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

IO_SETUP, IO_SUBMIT = 206, 209  # x86-64
CAN_REFUSE = sys.platform == "linux" and platform.machine() == "x86_64"

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # prctl(2)
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF, of the number of the call
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000


def refuse(calls: dict[int, int]) -> None:
    """For this process and all that it starts or becomes: `calls` of a number end with an errno."""
    program = [struct.pack("HBBI", _LOAD, 0, 0, 0)]
    for number, error in calls.items():
        program.append(struct.pack("HBBI", _JUMP_EQUAL, 0, 1, number))
        program.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | error))
    program.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, head)):
        if prctl(*arguments, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"prctl: {errno.errorcode[ctypes.get_errno()]}")


if __name__ == "__main__":
    refuse({int(number): int(error) for number, error in (pair.split(":") for pair in sys.argv[1].split(","))})
    os.execvp(sys.argv[2], sys.argv[2:])
