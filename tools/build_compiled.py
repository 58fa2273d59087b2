"""Compiles the typed Python that a node and the simulator spend their time in: mypyc makes C of it, cc one library.

    python tools/build_compiled.py [--force]

What comes out stands in unimeter/_compiled: a directory named after what the library was made from, and manifest.json, which
says for which Python, from which contents of which files. unimeter/compiled.py reads it and uses the
library only while all of that is still so. Whatever goes wrong here is a warning: the sources run as they are.

The manifest lists more than what is compiled: also every module of ours that a compiled one imports. mypyc writes
constants and the layout of classes of those into the C, so an edit of one of them makes the library as wrong.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import build_native as native  # noqa: E402
from unimeter import compiled  # noqa: E402

BUILD = ROOT / "build" / "compiled"  # the C that mypyc makes
HEADERS = BUILD / "whole.h"
OWN_C = ROOT / "csrc" / "compiled"
LIBRARIES_KEPT = 2  # the newest, and the one before it: a process that runs may not have loaded all of it yet
FLAGS = [
    *("-O1", "-fPIC", "-fvisibility=hidden"),  # -O2 takes twice as long: docs/decisions/0013-the-core-is-compiled.md
    *("-fwrapv", "-DNDEBUG"),  # what Python itself is built with; NDEBUG is about assert() of C, Python's stay
]
# of what mypyc writes; csrc/compiled is built with native.STRICT_FLAGS, and cold.h there says what the others are for
GENERATED_FLAGS = ["-w", "-freorder-blocks", "-freorder-blocks-and-partition"]

WANTED = (
    "unimeter/config.py",
    "unimeter/core/**/*.py",
    "unimeter/io/driver.py",
    "unimeter/io/framer.py",
    "unimeter/io/real/clock.py",
    "unimeter/io/real/connection.py",
    "unimeter/io/real/disk.py",
    "unimeter/io/real/network.py",
    "unimeter/kernels/frame.py",
    "unimeter/kernels/layout.py",
    "unimeter/kernels/native/*.py",
    "unimeter/sim/*.py",
    "unimeter/invariants/*.py",
)
LEFT_OUT = {
    # planted bugs: they change what runs, and are never planted in a compiled process
    "unimeter/sim/canaries.py",
    "unimeter/sim/canary_kernels.py",
    "unimeter/sim/canary_raft.py",
    "unimeter/sim/canary_registry.py",
    "unimeter/sim/wrapped.py",  # finds most of its methods by __getattr__, and is inherited from by the canaries
    # what is sent between processes is pickled, which compiled classes cannot be
    "unimeter/sim/fleet.py",
    "unimeter/sim/result.py",
    # once per process or less
    "unimeter/sim/report.py",
    "unimeter/sim/scenario.py",
    "unimeter/sim/shrink.py",
}


def wanted() -> list[str]:
    """The files to compile, relative to the tree. A package's own __init__ is never one: it finds the others."""
    found = {str(path.relative_to(ROOT)) for pattern in WANTED for path in ROOT.glob(pattern)}
    return sorted(name for name in found - LEFT_OUT if not name.endswith("__init__.py"))


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def watched(names: Iterable[str]) -> list[str]:
    """These files and all of ours that they import, directly or not, for types only or for more."""
    known: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in known:
            known.add(name)
            todo += _imports(ROOT / name)
    return sorted(known)


def _imports(path: Path) -> list[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = [module.replace(".", "/") for module in modules if module.split(".")[0] == "unimeter"]
    files = [name for stem in ours for name in (f"{stem}.py", f"{stem}/__init__.py")]
    return [name for name in files if (ROOT / name).is_file()]


def made_from(contents: dict[str, bytes]) -> str:
    """A name for everything that the library depends on."""
    parts = [
        compiled.abi(),
        sys.version,
        version("mypy"),
        " ".join([*native.compiler(), *FLAGS, *GENERATED_FLAGS]),
        *contents,
    ]
    others = [*sorted(OWN_C.glob("*")), Path(__file__), ROOT / "tools/build_native.py", ROOT / "pyproject.toml"]
    return native.digest(
        *(part.encode() for part in parts), *contents.values(), *(path.read_bytes() for path in others)
    )


def translate(names: list[str]) -> tuple[list[Path], str]:
    """The C files that mypyc makes of these modules, or what it complained about."""
    from mypyc.build import mypycify

    report = io.StringIO()
    options = ["--config-file=pyproject.toml", "--follow-imports=silent"]
    try:
        with contextlib.redirect_stdout(report), contextlib.redirect_stderr(report), contextlib.chdir(ROOT):
            extensions = mypycify(
                [*options, *names],
                multi_file=True,
                group_name=compiled.LIBRARY.removesuffix("__mypyc"),
                target_dir=str(BUILD.relative_to(ROOT)),
            )
    except (SystemExit, Exception) as error:  # it prints what is wrong, and exits; or it falls over
        lines = [line for line in report.getvalue().splitlines() if ": warning:" not in line]
        return [], "\n".join(lines) or repr(error)
    return [ROOT / source for source in extensions[0].sources], ""


def compile_all(sources: list[Path], out: Path) -> str:
    """Compile and link; what the compiler complained about, or ""."""
    from mypyc.common import __file__ as inside_mypyc

    runtime = str(Path(inside_mypyc).parent / "lib-rt")
    flags = [*FLAGS, f"-I{sysconfig.get_paths()['include']}"]
    headers = b"".join(path.name.encode() + path.read_bytes() for path in sorted(BUILD.glob("*.h")))
    salt = native.digest(headers, sys.version.encode(), version("mypy").encode(), " ".join(native.compiler()).encode())
    generated = [*flags, f"-I{runtime}", f"-I{BUILD.relative_to(ROOT)}", *GENERATED_FLAGS]
    if complaint := native.run([*native.compiler(), *generated, "-x", "c-header", *precompiled()]):
        return complaint
    modules = [*generated, "-include", str(HEADERS.relative_to(ROOT))]
    work = [
        (source, modules if source.name.startswith("__native") else generated)
        for source in sorted(sources, key=lambda path: -path.stat().st_size)  # long ones first
    ]
    work += [(source, [*flags, *native.STRICT_FLAGS]) for source in sorted(OWN_C.glob("*.c"))]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        built = list(pool.map(lambda pair: native.compile_object(pair[0], salt, pair[1]), work))
    complaints = [complaint for _, complaint in built if complaint]
    if complaints:
        return "\n".join(complaints[:3])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    complaint = native.run([*native.compiler(), "-shared", *(str(path) for path, _ in built), "-o", str(part)])
    if not complaint:
        part.replace(out)
    return complaint


def precompiled() -> tuple[str, ...]:
    """What every module includes, read once: it is a fifth of the work."""
    included = [*BUILD.glob("__native_*.h"), OWN_C / "cold.h"]
    HEADERS.write_text("".join(f'#include "{path}"\n' for path in included))
    return str(HEADERS.relative_to(ROOT)), "-o", f"{HEADERS.relative_to(ROOT)}.gch"


def publish(directory: str, names: list[str], sources: dict[str, str]) -> None:
    """From here on new processes use it. Older libraries go, but for one."""
    manifest = {
        "abi": compiled.abi(),
        "directory": directory,
        "modules": [module_name(name) for name in names],
        "sources": sources,
    }
    part = compiled.MANIFEST.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    part.replace(compiled.MANIFEST)
    libraries = sorted(
        (path for path in compiled.HOME.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    for old in libraries[:-LIBRARIES_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def build(force: bool) -> str:
    """Build if anything changed; why it could not be done, or ""."""
    names = wanted()
    current = compiled.choice()
    known = not current.why_not and current.modules == {module_name(name) for name in names}
    every = current.sources if known else watched(names)  # nothing changed: nor did what imports what
    contents = {name: (ROOT / name).read_bytes() for name in every}  # as they are before mypyc reads them
    try:
        directory = made_from(contents)
    except PackageNotFoundError:
        return "mypy is not installed (pip install 'unimeter[dev]')"
    if not force and not current.why_not and current.directory.name == directory:
        return ""
    sources = {name: compiled.fingerprint(content) for name, content in contents.items()}
    library = compiled.HOME / directory / "library.so"
    if force or not library.exists():
        print(f"compiling {len(names)} modules (a minute or two when all of them changed) ...", flush=True)
        c_files, complaint = translate(names)
        complaint = complaint or compile_all(c_files, library)
        if complaint:
            return complaint
    publish(directory, names, sources)
    print(f"built {library.relative_to(ROOT)}")
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the typed Python.")
    parser.add_argument("--force", action="store_true", help="build even if nothing changed")
    arguments = parser.parse_args()
    os.environ.pop(compiled.VARIABLE, None)  # it is about what processes run, not about what is built
    with native.build_lock("compiled"):
        why_not = build(arguments.force)
    if why_not:
        print(
            f"{why_not}\n\nwarning: nothing was compiled; everything runs interpreted, several times slower",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
