"""Compiled and interpreted are one program: the same traces, byte by byte. And an edited source is never ignored."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import build_compiled
from unimeter import compiled

ROOT = Path(__file__).resolve().parent.parent
STATUS = (
    "import unimeter.core.node as node, unimeter.compiled as c; print(c.status()); print(type(node.Node.step).__name__)"
)
DIGESTS = """
import sys
from unimeter import compiled, kernels
from unimeter.sim.runner import run_seed
from unimeter.sim.scenario import load_all
print(compiled.status().partition(":")[0])
for name, scenario in sorted(load_all().items())[:: int(sys.argv[1])]:
    result = run_seed(scenario, 1000, kernels.load())
    print(name, result.digest, result.failure, sorted(result.marks.items()), sorted(result.evaluated.items()))
"""


def python(code: str, *arguments: str, tree: Path = ROOT, **variables: str) -> list[str]:
    """What a process prints that decides for itself."""
    environment = {key: value for key, value in os.environ.items() if key != compiled.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment | {"PYTHONPATH": str(tree)} | variables,
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def built() -> None:
    found = python(STATUS)[0]
    if found != compiled.COMPILED:
        pytest.skip(found)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(("kernels", "every"), [("native", "1"), ("reference", "3")])
def test_compiled_and_interpreted_give_the_same_traces_and_look_as_often(kernels: str, every: str) -> None:
    fast = python(DIGESTS, every, UNIMETER_KERNELS=kernels)
    plain = python(DIGESTS, every, UNIMETER_KERNELS=kernels, UNIMETER_INTERPRETED="1")
    assert (fast[0], plain[0]) == (compiled.COMPILED, "interpreted")
    assert len(plain) > 12
    assert fast[1:] == plain[1:]


@pytest.fixture
def tree(tmp_path: Path, built: None) -> Path:  # noqa: ARG001
    """A copy of the program, with what was built of it."""
    for name in ("unimeter", "invariants", "scenarios"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_edited_source_is_never_ignored(tree: Path) -> None:
    assert python(STATUS, tree=tree) == [compiled.COMPILED, "method_descriptor"]
    source = tree / "unimeter" / "core" / "node.py"
    text = source.read_text()
    source.write_text(text + "# edited\n")
    says = "interpreted: unimeter/core/node.py changed since the build; run make native"
    assert python(STATUS, tree=tree) == [says, "function"]
    source.write_text(text)
    assert python(STATUS, tree=tree)[0] == compiled.COMPILED


def test_so_is_an_edit_of_what_a_compiled_module_imports(tree: Path) -> None:
    with (tree / "unimeter" / "kernels" / "layout.py").open("a") as file:
        file.write("# edited\n")
    says = "interpreted: unimeter/kernels/layout.py changed since the build; run make native"
    assert python(STATUS, tree=tree) == [says, "function"]


def test_a_node_says_that_it_runs_slower_than_it_could(tree: Path) -> None:
    with (tree / "unimeter" / "core" / "node.py").open("a") as file:
        file.write("# edited\n")
    done = subprocess.run(
        [sys.executable, "-m", "unimeter.cli", "node", "--data-dir", str(tree), "--memory-max", "1KiB"],
        env={key: value for key, value in os.environ.items() if key != compiled.VARIABLE} | {"PYTHONPATH": str(tree)},
        cwd=tree, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "node.py changed since the build; run make native" in done.stderr, done.stderr


def test_the_variable_and_this_process(tree: Path) -> None:
    assert python(STATUS, tree=tree, UNIMETER_INTERPRETED="1") == [
        "interpreted: UNIMETER_INTERPRETED is set",
        "function",
    ]
    assert python(STATUS, tree=tree, UNIMETER_INTERPRETED="0")[0] == compiled.COMPILED
    ask = "from unimeter import compiled; compiled.interpret();"
    assert python(ask + STATUS, tree=tree) == ["interpreted: asked for by this process", "function"]
    assert compiled.status() == "interpreted: asked for by this process", "these tests themselves"


def test_an_unreadable_build_is_no_build(tree: Path) -> None:
    manifest = tree / "unimeter" / "_compiled" / "manifest.json"
    whole = manifest.read_text()
    for broken in ("", "{}", "[]", whole[: len(whole) // 2], whole.replace(compiled.abi(), "another")):
        manifest.write_text(broken)
        assert python(STATUS, tree=tree)[0].endswith("run make native")
    manifest.unlink()
    assert python(STATUS, tree=tree)[0] == "interpreted: nothing is built"


def test_what_a_compiled_module_imports_is_watched() -> None:
    names = build_compiled.wanted()
    watched = build_compiled.watched(names)
    assert set(names) < set(watched)
    assert {"unimeter/kernels/layout.py", "unimeter/kernels/api.py", "unimeter/core/node.py"} <= set(watched)
    assert build_compiled.LEFT_OUT.isdisjoint(names)
    assert all((ROOT / name).is_file() for name in build_compiled.LEFT_OUT), "of files that are there"


def _is_super(called: ast.expr) -> bool:
    """super().name, or Class.__init__: a method of the class itself, found without looking it up."""
    if not isinstance(called, ast.Attribute):
        return False
    inner = called.value
    return called.attr == "__init__" or (
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super"
    )


@pytest.mark.parametrize("name", build_compiled.wanted())
def test_no_compiled_module_does_what_mypyc_gets_wrong(name: str) -> None:
    """super().__init__(*args): mypyc 2.4 passes the tuple itself on as the first argument, without a word."""
    for node in ast.walk(ast.parse((ROOT / name).read_bytes())):
        if isinstance(node, ast.Call) and _is_super(node.func):
            starred = any(isinstance(each, ast.Starred) for each in node.args)
            assert not starred and all(keyword.arg for keyword in node.keywords), f"{name}:{node.lineno}"


REPLACED_BY_TESTS = {
    "LONE_SLOW_NS", "DIAL_SECONDS_MAX", "PEER_LINKS_MAX", "PEER_SEND_BYTES_MAX", "LINGER_SECONDS", "HALF_CLOSED_SECONDS",
}  # fmt: skip
TUPLES_OF_FLOATS = {"WRITE_SECONDS_BUCKETS", "WRITE_NS_BUCKETS"}


@pytest.mark.parametrize("name", build_compiled.wanted())
def test_constants_of_compiled_modules_are_final(name: str) -> None:
    """One that is not is looked up in a dictionary wherever it is used: a fourteenth of what the core had to do. But a Final tuple
    that begins with a float is taken for one that is not set yet."""
    for node in ast.parse((ROOT / name).read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constant = node.targets[0].id
            if (
                constant.strip("_").isupper()
                and len(constant) > 1
                and constant not in REPLACED_BY_TESTS | TUPLES_OF_FLOATS
            ):
                assert isinstance(node.value, ast.Name), f"{name}:{node.lineno}: say `{constant}: Final = ...`"
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Final":
            assert ast.unparse(node.target) not in TUPLES_OF_FLOATS
            if isinstance(node.value, ast.Tuple) and node.value.elts:
                first = node.value.elts[0]
                assert not (isinstance(first, ast.Constant) and isinstance(first.value, float)), f"{name}:{node.lineno}"


OPEN_BASES = {"NamedTuple", "Exception", "IntEnum", "Enum", "Protocol"}  # these stay Python's own when compiled


def test_no_interpreted_class_inherits_from_a_compiled_one() -> None:
    """It could not be instantiated."""
    names = build_compiled.wanted()
    closed = {
        (build_compiled.module_name(name), node.name)
        for name in names
        for node in ast.parse((ROOT / name).read_bytes()).body
        if isinstance(node, ast.ClassDef) and OPEN_BASES.isdisjoint(ast.unparse(base) for base in node.bases)
    }
    for path in [*(ROOT / "unimeter").rglob("*.py"), *(ROOT / "unimeter" / "invariants").glob("*.py")]:
        if str(path.relative_to(ROOT)) in names:
            continue
        imported: dict[str, tuple[str, str]] = {}
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                imported |= {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}
            elif isinstance(node, ast.ClassDef):
                for base in node.bases:
                    assert imported.get(ast.unparse(base)) not in closed, f"{path.name}: {node.name}"
