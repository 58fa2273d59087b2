"""The laws of the design, as tests: who may import what, how long a file may be, what C may call."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "unimeter"
LINES_MAX = 500
PURE_STDLIB = {
    "__future__", "abc", "bisect", "collections", "collections.abc", "contextlib", "dataclasses", "enum", "functools",
    "heapq", "itertools", "operator", "struct", "types", "typing",
}  # fmt: skip
PURE_LIBRARIES = {"msgpack", "sortedcontainers"}  # functions of their arguments
KERNEL_LIBRARIES = {"array", "datetime", "mmap", "os", "weakref", "cffi"}  # memory, calendar types; no input or output
SOURCE_SUFFIXES = {".py", ".c", ".h", ".go", ".ts"}


def sources(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts
    )


def imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", sources("unimeter/core"), ids=str)
def test_core_imports_only_itself_kernels_and_pure_modules(path: Path) -> None:
    for module in imports(path):
        pure = module in PURE_STDLIB or module.split(".")[0] in PURE_LIBRARIES
        ours = inside(module, "unimeter.core", "unimeter.kernels", "unimeter.config") or module == "unimeter"
        assert pure or ours, f"{path.name} imports {module}"


@pytest.mark.parametrize("path", sources("unimeter/core"), ids=str)
def test_core_has_no_float_no_hash_no_id_and_does_not_iterate_over_sets(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), (
            f"{path.name}:{node.lineno} float"
        )
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)), f"{path.name}:{node.lineno} division"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"hash", "id", "float", "open", "print", "input"}, (
                f"{path.name}:{node.lineno} {node.func.id}()"
            )
        if isinstance(node, ast.For | ast.comprehension):
            over = node.iter
            named = (
                isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id in {"set", "frozenset"}
            )
            assert not named and not isinstance(over, ast.Set | ast.SetComp), f"{path.name}: iterates over a set"


@pytest.mark.parametrize("path", sources("unimeter/kernels"), ids=str)
def test_kernels_import_nothing_of_ours_but_kernels(path: Path) -> None:
    for module in imports(path):
        waits = module == "time" and path.name == "job.py"  # for another thread
        pure = waits or module in PURE_STDLIB | KERNEL_LIBRARIES or module.split(".")[0] in PURE_LIBRARIES
        assert pure or inside(module, "unimeter.kernels"), f"{path.name} imports {module}"


def test_the_real_world_and_the_simulator_never_import_each_other() -> None:
    for path in sources("unimeter/io/real"):
        assert not any(inside(module, "unimeter.sim") for module in imports(path)), path
    for path in sources("unimeter/sim", "invariants", "scenarios"):
        assert not any(inside(module, "unimeter.io.real") for module in imports(path)), path


def test_the_driver_knows_the_world_only_through_its_interface() -> None:
    for name in ("driver.py", "framer.py", "interface.py"):
        for module in imports(PACKAGE / "io" / name):
            known = inside(
                module,
                "unimeter.core",
                "unimeter.kernels",
                "unimeter.config",
                "unimeter.io.framer",
                "unimeter.io.interface",
            )
            assert known or module in PURE_STDLIB, f"{name} imports {module}"


def test_only_the_node_and_its_outbox_make_effects() -> None:
    makers = {"node.py", "outbox.py", "effects.py"}
    for path in sources("unimeter/core"):
        if path.name not in makers:
            assert "unimeter.core.effects" not in imports(path), path


def test_no_file_is_longer_than_the_limit() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in SOURCE_SUFFIXES and path.is_file() and not path.is_symlink():
            count = len(path.read_text().splitlines())
            assert count <= LINES_MAX, f"{name} has {count} lines"


def test_every_python_file_of_the_package_opens_with_what_it_is_about() -> None:
    for path in sources("unimeter", "invariants"):
        if path.name != "__init__.py" and path.stat().st_size:
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_the_kernels_call_nothing_but_memory_moves(tmp_path: Path) -> None:
    """Compiled alone, csrc/kernels has no undefined symbols but memcpy, memmove, memset, memcmp."""
    allowed = {"memcpy", "memmove", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}
    files = sorted((ROOT / "csrc/kernels").glob("*.c"))
    flags = ["-std=gnu11", "-O2", "-fPIC"]
    if subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip() == "x86_64":
        flags.append("-msse4.2")
    whole = tmp_path / "kernels.o"
    subprocess.run(["cc", *flags, "-r", "-nostdlib", "-o", str(whole), *map(str, files)], check=True)
    listed = subprocess.run(["nm", "-u", str(whole)], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in listed.splitlines()} <= allowed, listed


def test_only_sysio_makes_system_calls() -> None:
    for path in (ROOT / "csrc/kernels").glob("*.[ch]"):
        for header in re.findall(r"#include <([^>]+)>", path.read_text()):
            assert header in {
                "stdint.h",
                "stddef.h",
                "string.h",
                "emmintrin.h",
                "nmmintrin.h",
                "immintrin.h",
                "wmmintrin.h",
                "arm_acle.h",
            }, f"{path.name}: {header}"


def test_the_project_speaks_of_itself_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split():
        path = ROOT / name
        if (
            path.suffix in {*SOURCE_SUFFIXES, ".md", ".toml", ".json", ""}
            and path.is_file()
            and path.name != "test_tidy.py"
        ):
            text = path.read_text(errors="replace")
            for foreign in ("/work/", "../shared"):
                assert foreign not in text, f"{name} mentions {foreign}"
