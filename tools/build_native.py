"""Builds the C extensions: unimeter.kernels.native._um, unimeter.io.real._sysio, unimeter.commands._load.

What cffi is told (the "cdef") is the text between CDEF BEGIN and CDEF END of the public headers, so the
headers are the only place where a function or a struct is written down. Two ways in:

* `python tools/build_native.py` builds in place, for work on the tree: strict warnings, objects cached in
  build/ by the content they came from, under a file lock, each .so renamed into place only when whole.
* `setup.py` takes the builders `kernels`, `sysio` and `load` from here (cffi_modules), for wheels and plain installs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import io
import os
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent if "__file__" in globals() else Path.cwd()
BUILD = ROOT / "build" / "native"
COMPILE_FLAGS = [
    *("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden"),  # hidden: calls between files need no detour
    *(["-msse4.2"] if platform.machine() == "x86_64" else []),
]
LTO_FLAGS = ["-flto=auto", "-ffat-lto-objects"]  # inlining across files; fat: nm and a linker without it still do
STRICT_FLAGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
ABI_MACRO = "-DPy_LIMITED_API=0x030b0000"  # one .so for every CPython from 3.11 on
CDEF = re.compile(r"/\* CDEF BEGIN \*/(.*?)/\* CDEF END \*/", re.DOTALL)
FUNCTION = re.compile(r"^[a-z][\w ]*?[ *](um_\w+)\([^;{}]*\);[^\n]*$", re.MULTILINE)


class Extension(NamedTuple):
    """One extension module: where it goes, what it is made of."""

    module: str
    source_dir: str
    headers: tuple[str, ...]  # in the order cffi must read them
    link_flags: tuple[str, ...] = ()
    long_calls: tuple[str, ...] = ()  # let go of the interpreter's lock (csrc/glue/um_gil.h)

    def path(self) -> Path:
        return ROOT / (self.module.replace(".", "/") + ".abi3.so")

    def sources(self) -> list[Path]:
        return sorted((ROOT / self.source_dir).glob("*.c"))

    def preamble(self) -> str:
        includes = "".join(f'#include "{header}"\n' for header in self.headers)
        if not self.long_calls:
            return includes
        names = " || ".join(f'strcmp(name, "_cffi_f_{call}") == 0' for call in self.long_calls)
        return f'{includes}#define UM_TAKES_LONG(name) ({names})\n#include "um_gil.h"\n'

    def cdef(self) -> str:
        parts: list[str] = []
        for header in self.headers:
            found: list[str] = CDEF.findall((ROOT / self.source_dir / header).read_text())
            if not found:
                raise SystemExit(f"{self.source_dir}/{header}: no text between CDEF BEGIN and CDEF END")
            parts += found
        return "\n".join(parts)


GLUE_DIR = "csrc/glue"
KERNELS = Extension(
    "unimeter.kernels.native._um",
    "csrc/kernels",
    ("um_layout.h", "um_kernels.h"),
    long_calls=(
        *("um_state_reindex", "um_state_check", "um_state_digest"),
        *("um_job_run", "um_query_begin", "um_query_scan"),
    ),
)
SYSIO = Extension(
    "unimeter.io.real._sysio",
    "csrc/sysio",
    ("um_sysio.h",),
    ("-pthread",),
    long_calls=("um_sys_open", "um_sys_close", "um_sys_write_begin", "um_sys_write_end", "um_sys_probe_write"),
)
LOAD = Extension("unimeter.commands._load", "csrc/bench", ("um_load.h",))


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def run(command: list[str]) -> str:
    """Run; what it complained about, or "" when it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return "" if done.returncode == 0 else f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


@functools.cache
def lto_flags() -> tuple[str, ...]:
    """What makes this compiler optimize across files; nothing where compiler and linker cannot do it together."""
    with tempfile.TemporaryDirectory() as scratch:
        part, whole = Path(scratch) / "part.c", Path(scratch) / "whole.c"
        part.write_text("int um_part(int x) { return x + 1; }\n")
        whole.write_text("int um_part(int x);\nint um_whole(int x);\nint um_whole(int x) { return um_part(x); }\n")
        flags = [*COMPILE_FLAGS, *LTO_FLAGS]
        for source in (part, whole):
            if run([*compiler(), *flags, "-c", str(source), "-o", f"{source}.o"]):
                return ()
        failed = run([*compiler(), *flags, "-shared", f"{part}.o", f"{whole}.o", "-o", f"{scratch}/probe.so"])
        return () if failed else tuple(LTO_FLAGS)


def builder(extension: Extension) -> FFI:
    """For setup.py: everything in one go, without -Werror (a newer compiler's new warning must not break an
    installation)."""
    ffi = FFI()
    ffi.cdef(extension.cdef())
    ffi.set_source(
        extension.module,
        extension.preamble(),
        sources=[os.path.relpath(path, ROOT) for path in extension.sources()],
        include_dirs=[extension.source_dir, GLUE_DIR],
        extra_compile_args=[*COMPILE_FLAGS, *lto_flags()],
        extra_link_args=[*extension.link_flags, "-O3", *lto_flags()],
    )
    return ffi


def kernels() -> FFI:
    return builder(KERNELS)


def sysio() -> FFI:
    return builder(SYSIO)


def load() -> FFI:
    return builder(LOAD)


# ---- building in place ----


@contextmanager
def build_lock(name: str) -> Iterator[None]:
    """One build of a kind at a time."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*parts: bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "little") + part)
    return h.hexdigest()[:16]


def compile_object(source: Path, salt: str, flags: list[str]) -> tuple[Path, str]:
    """The object of a source, from the cache when neither it nor a header nor a flag changed."""
    key = digest(source.read_bytes(), salt.encode(), " ".join(flags).encode())
    out = BUILD / f"{source.parent.name}-{source.stem}-{key}.o"
    if out.exists():
        return out, ""
    for old in BUILD.glob(f"{source.parent.name}-{source.stem}-????????????????.o"):
        old.unlink()
    part = out.with_suffix(".part")
    complaint = run([*compiler(), *flags, "-c", os.path.relpath(source, ROOT), "-o", str(part)])
    if not complaint:
        part.replace(out)
    return out, complaint


def unresolved(objects: list[Path], wanted: list[str]) -> list[str]:
    """Functions of ours that an object or the cdef needs and no object has: a .so without them would not load."""
    out = subprocess.run(["nm", *map(str, objects)], capture_output=True, text=True, check=True).stdout
    rows = [line.split()[-2:] for line in out.splitlines() if " um_" in line]
    needed = {name for kind, name in rows if kind == "U"} | set(wanted)
    return sorted(needed - {name for kind, name in rows if kind != "U"})


def build(extension: Extension, force: bool) -> bool:
    """Build one extension in place if anything changed. True: its .so is current; False: the old one was left."""
    directory = ROOT / extension.source_dir
    read = [*sorted(directory.glob("*.h")), *sorted((ROOT / GLUE_DIR).glob("*.h"))]
    headers = b"".join(path.name.encode() + path.read_bytes() for path in read)
    salt = digest(headers, sys.version.encode(), " ".join(compiler()).encode())
    sources = extension.sources()
    inputs = digest(salt.encode(), Path(__file__).read_bytes(), *(p.name.encode() + p.read_bytes() for p in sources))
    stamp = BUILD / f"{extension.module}.stamp"
    target = extension.path()
    if not force and target.exists() and stamp.exists() and stamp.read_text() == inputs:
        return True

    flags = [*COMPILE_FLAGS, *lto_flags(), f"-I{extension.source_dir}", f"-I{GLUE_DIR}"]
    cdef = extension.cdef()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        built = list(pool.map(lambda source: compile_object(source, salt, [*flags, *STRICT_FLAGS]), sources))
    objects = [path for path, _ in built]
    complaints = [complaint for _, complaint in built if complaint]
    if not complaints and (names := unresolved(objects, FUNCTION.findall(cdef))):
        complaints.append(f"{extension.module}: declared or called, but nowhere defined: {', '.join(names)}")
    if not complaints:
        glue = write_glue(extension, cdef)
        include = sysconfig.get_paths()["include"]
        glue_object, complaint = compile_object(glue, salt, [*flags, ABI_MACRO, f"-I{include}", "-w"])
        part = target.with_suffix(".part")
        link = [*COMPILE_FLAGS, *lto_flags(), "-shared", *extension.link_flags]
        command = [*compiler(), *link, str(glue_object), *map(str, objects)]
        complaints = [text for text in (complaint or run([*command, "-o", str(part)]),) if text]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        return False
    part.replace(target)
    stamp.write_text(inputs)
    print(f"built {target.relative_to(ROOT)}")
    return True


def write_glue(extension: Extension, cdef: str) -> Path:
    """The C file that makes a Python module of the cdef."""
    ffi = FFI()
    ffi.cdef(cdef)
    ffi.set_source(extension.module, extension.preamble())
    glue = BUILD / f"{extension.module.rsplit('.', 1)[1]}.c"
    with contextlib.redirect_stdout(io.StringIO()):
        ffi.emit_c_code(str(glue))
    return glue


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the C extensions in place.")
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    arguments = parser.parse_args()
    with build_lock("native"):
        current = [build(extension, arguments.force) for extension in (KERNELS, SYSIO, LOAD)]
    return 0 if all(current) else 1


if __name__ == "__main__":
    sys.exit(main())
