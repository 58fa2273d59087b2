"""The README's quick start, run as it stands there (only the address is another)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimeter.commands.bench_node import NodeProcess

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with NodeProcess(tmp_path_factory.mktemp("readme") / "data", "--memory-max", "64MiB") as node:
        yield node.address


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_snippet_prints_one(address: str) -> None:
    (snippet,) = blocks("python")
    assert '"localhost:7001"' in snippet
    code = snippet.replace("localhost:7001", address)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr


def test_the_shell_commands_do_what_they_show(address: str, tmp_path: Path) -> None:
    create, session = (block for block in blocks("") if "unimeter metric create" in block or "unimeter import" in block)
    (create_line,) = (line for line in create.splitlines() if "metric create" in line)
    (file_text,) = re.findall(r"<<EOF\n(.*?)EOF\n", session, re.DOTALL)
    (tmp_path / "usage.csv").write_text(file_text)
    lines = [create_line, *(line for line in session.splitlines() if line.startswith("unimeter "))]
    printed = []
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "unimeter"
        command = [sys.executable, "-m", "unimeter.cli", *words[1:], "--server", address]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    assert "rows read 3, stored 3" in printed[1]
    assert printed[2].splitlines()[1].split()[:2] == ["2", "2000"]
    assert '"sum": 1200' in printed[3]


def test_every_document_that_the_readme_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
