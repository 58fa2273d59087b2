# The extension that tools/build_native.py makes of csrc/sysio: cffi gives `ffi` and `lib`.
from typing import Any

from cffi import FFI

ffi: FFI
lib: Any
