"""Which modules are compiled, and whether they are used: all of them or none.

`make native` translates the typed modules that a node and the simulator spend their time in to C (mypyc) and links them into one
library, next to a manifest of what it was made from (tools/build_compiled.py). The finder here serves modules from that
library, and only while every one of those source files still has the content that was compiled. Edit one, and the
next process runs the sources, all of them: a mixture of old and new code never runs.

    UNIMETER_INTERPRETED=1    run the sources, whatever was built: for a debugger, a profile, a planted bug

Nothing is decided, read or hashed before the first such module is imported: an application that uses only the client pays nothing.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec, source_hash, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

VARIABLE = "UNIMETER_INTERPRETED"
COMPILED = "compiled"
PACKAGE = Path(__file__).resolve().parent
HOME = PACKAGE / "_compiled"  # the library, in a directory that is named after its content, and the manifest
MANIFEST = HOME / "manifest.json"
LIBRARY = "unimeter__mypyc"  # mypyc's name for it, and the name by which compiled code finds itself
DOOR = "unimeter_enter"  # the module in it that makes all others: csrc/compiled/enter.c


class Choice(NamedTuple):
    """What this process runs. Taken once: a process never changes its mind."""

    why_not: str  # "" when the compiled modules are used
    stale: bool  # something was built, and is not up to date
    directory: Path
    modules: frozenset[str]
    sources: tuple[str, ...]  # files, relative to the tree


def status() -> str:
    """COMPILED, or "interpreted: " and why."""
    why_not = choice().why_not
    return f"interpreted: {why_not}" if why_not else COMPILED


def is_stale() -> bool:
    """Something was built here that is not used, because it was made from other sources or for another Python."""
    return choice().stale


def interpret() -> None:
    """This process runs the sources, as under UNIMETER_INTERPRETED=1; those that it starts decide for themselves."""
    loaded = sorted(
        name for name, module in sys.modules.items() if isinstance(getattr(module, "__loader__", None), _Served)
    )
    assert not loaded, f"too late, already loaded: {', '.join(loaded)}"
    _Forced.reason = "asked for by this process"
    choice.cache_clear()


class _Forced:
    reason = ""


def fingerprint(content: bytes) -> str:
    """Of a source file. The interpreter's own hash of sources (PEP 552): no import, a gigabyte in a second."""
    return source_hash(content).hex()


def abi() -> str:
    """A library is for one version of one implementation on one kind of machine."""
    return f"{sys.implementation.cache_tag}-{sys.platform}-{os.uname().machine}{getattr(sys, 'abiflags', '')}"


@cache
def choice() -> Choice:
    interpreted = Choice("", False, HOME, frozenset(), ())
    if _Forced.reason:
        return interpreted._replace(why_not=_Forced.reason)
    if os.environ.get(VARIABLE, "0") not in ("", "0"):
        return interpreted._replace(why_not=f"{VARIABLE} is set")
    import json  # only now: most of what imports this module never asks

    try:
        manifest = json.loads(MANIFEST.read_bytes())
        made_for, directory = manifest["abi"], HOME / manifest["directory"]
        sources, modules = manifest["sources"], frozenset(manifest["modules"])
    except FileNotFoundError:
        return interpreted._replace(why_not="nothing is built")
    except (OSError, ValueError, KeyError, TypeError):
        return interpreted._replace(why_not="the manifest cannot be read; run make native", stale=True)
    if made_for != abi():
        return interpreted._replace(why_not=f"built for {made_for}, this is {abi()}; run make native", stale=True)
    changed = [name for name, expected in sources.items() if _content(name) != expected]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        why = f"{changed[0]}{more} changed since the build; run make native"
        return interpreted._replace(why_not=why, stale=True)
    if not (directory / "library.so").exists():
        return interpreted._replace(why_not="the library is gone; run make native", stale=True)
    return Choice("", False, directory, modules, tuple(sources))


def _content(name: str) -> str:
    """The fingerprint of a source as it is now; "" if it cannot be read."""
    try:
        with open(PACKAGE.parent / name, "rb", buffering=0) as file:  # noqa: PTH123  # half the time of Path.open
            return fingerprint(file.read())
    except OSError:
        return ""


class _Served(Loader):
    """Loads one module out of the library."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        library, door = _open()
        module: ModuleType = door.init(getattr(library, "init_" + spec.name.replace(".", "___")))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Done when it was made."""

    def get_source(self, fullname: str) -> str:
        """For tracebacks and inspect."""
        return (PACKAGE.parent / (fullname.replace(".", "/") + ".py")).read_text()


@cache
def _open() -> tuple[Any, Any]:
    path = str(choice().directory / "library.so")
    opened = []
    for name in (LIBRARY, DOOR):
        spec = spec_from_loader(name, ExtensionFileLoader(name, path), origin=path)
        assert spec is not None
        spec.has_location = True
        module = module_from_spec(spec)
        sys.modules[name] = module
        opened.append(module)
    return opened[0], opened[1]


class Finder(MetaPathFinder):
    """Serves what is compiled; everything else is left to the finders after it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002  # importlib's signature
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith("unimeter.") or fullname not in choice().modules:
            return None
        return ModuleSpec(fullname, _Served(), origin=str(PACKAGE.parent / (fullname.replace(".", "/") + ".py")))


def install() -> None:
    """First of all finders; nothing when nothing was ever built here, as in an installation from a wheel."""
    if MANIFEST.exists() and not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
