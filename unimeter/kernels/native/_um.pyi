from typing import Any

ffi: Any  # cffi's own types know nothing of the fields of structs
lib: Any
