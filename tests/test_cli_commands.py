"""Claims about the command line in front of a real node: what it prints and with which code it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimeter import cli
from unimeter.commands.bench_node import NodeProcess, free_port

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with NodeProcess(tmp_path_factory.mktemp("cli") / "data", "--memory-max", "64MiB") as node:
        yield node.address


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], address: str) -> None:
        self._capsys = capsys
        self.address = address
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--server", self.address])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], address: str) -> Shell:
    return Shell(capsys, address)


def ndjson(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_metrics_are_created_listed_and_deleted(run: Shell) -> None:
    words = ["metric", "create", "listed", "--agg", "sum", "--dimension", "region", "--threshold", "big=100"]
    words += ["--recurring-threshold", "often=10", "--period", "month", "--billing-day", "5"]
    assert run(*words) == 0
    assert run.out == "created listed\n"
    assert run(*words) == 0
    assert run.out == "listed is there\n"
    assert run("metric", "create", "listed", "--agg", "max") == 1
    assert "error:" in run.err
    assert run("metric", "list", "--json") == 0
    found = next(metric for metric in json.loads(run.out) if metric["code"] == "listed")
    assert (found["aggregation"], found["period"], found["billing_day"]) == ("sum", "month", 5)
    assert found["thresholds"] == [
        {"name": "big", "value": 100, "recurring": False},
        {"name": "often", "value": 10, "recurring": True},
    ]
    assert run("metric", "list") == 0
    assert "big=100, often=10 recurring" in run.out
    assert run("metric", "delete", "listed") == 0
    assert run("metric", "delete", "listed") == 1


def test_every_aggregation_can_be_asked_for_as_json(run: Shell, tmp_path: Path) -> None:
    file = ndjson(
        tmp_path / "values.ndjson",
        {"who": "acme", "n": 5, "at": "2026-01-01T00:00:00Z"},
        {"who": "acme", "n": -3, "at": "2026-01-02T00:00:00Z"},
        {"who": "acme", "n": 5, "at": "2026-01-03T00:00:00Z"},
    )
    for agg in ("count", "sum", "max", "latest", "count-unique"):
        code = f"all-{agg}"
        assert run("metric", "create", code, "--agg", agg) == 0
        assert run("import", file, "--metric", code, "--account", "who", "--value", "n", "--time", "at") == 0
        assert run("query", "acme", code, "--json") == 0
        assert json.loads(run.out) == {
            "count": 3, "sum": 7, "min": -3, "max": 5, "latest": 5, "unique": 2 if agg == "count-unique" else None,
        }  # fmt: skip
        assert run("query", "acme", code, "--from", "2026-01-02", "--to", "2026-01-03", "--json") == 0
        assert json.loads(run.out)["sum"] == -3
        assert run("query", "acme", code, "--from", "2027-01-01", "--json") == 0
        assert json.loads(run.out) == {
            "count": 0, "sum": 0, "min": None, "max": None, "latest": None,
            "unique": 0 if agg == "count-unique" else None,
        }  # fmt: skip


def test_ranges_filters_and_breakdowns_are_exact(run: Shell, tmp_path: Path) -> None:
    assert run("metric", "create", "traffic", "--agg", "sum", "--dimension", "region", "--dimension", "tier") == 0
    second = 1_767_225_600 * 10**9  # 2026-01-01
    file = ndjson(
        tmp_path / "t.ndjson",
        *({"a": 42, "v": n, "t": second + n, "region": "eu" if n % 2 else "us", "tier": ""} for n in range(10)),
    )
    words = ("--metric", "traffic", "--account", "a", "--value", "v", "--time", "t")
    assert run("import", file, *words, "--property", "region", "--property", "tier") == 0
    assert run("query", "42", "traffic", "--from", str(second + 3), "--to", str(second + 6), "--json") == 0
    assert json.loads(run.out)["sum"] == 3 + 4 + 5
    assert run("query", "42", "traffic", "--filter", "region=eu", "--json") == 0
    assert json.loads(run.out)["sum"] == 1 + 3 + 5 + 7 + 9
    assert run("query", "42", "traffic", "--filter", "region=eu", "--filter", "region=us", "--json") == 0
    assert json.loads(run.out)["count"] == 10
    assert run("query", "42", "traffic", "--group-by", "region", "--group-by", "tier", "--json") == 0
    rows = json.loads(run.out)["rows"]
    assert [(row["dimensions"], row["sum"]) for row in rows] == [
        ({"region": "eu", "tier": ""}, 25),
        ({"region": "us", "tier": ""}, 20),
    ]
    assert run("query", "42", "traffic", "--text", "--json") == 0
    assert json.loads(run.out)["count"] == 0, "the text account 42 is another account"
    assert run("query", "42", "traffic", "--group-by", "region") == 0
    assert [line.split() for line in run.out.splitlines()][1][:3] == ["eu", "5", "25"]
    assert run("query", "42", "traffic", "--group-by", "zone") == 1


def test_wrong_usage_is_2_and_no_server_is_4(capsys: pytest.CaptureFixture[str], run: Shell, tmp_path: Path) -> None:
    assert run("query", "1", "nope", "--json") == 1
    assert "no metric" in run.err
    assert run("query", "1") == 2
    assert run("query", "1", "calls", "--from", "yesterday") == 2
    assert run("query", "1", "calls", "--from", "2026-02-01", "--to", "2026-01-01") == 2
    assert run("query", "1", "calls", "--filter", "region") == 2
    assert run("metric", "create", "x", "--agg", "median") == 2
    assert run("metric", "create", "x", "--agg", "sum", "--threshold", "a=b") == 2
    assert run("metric", "create", "x", "--agg", "sum", "--billing-day", "31") == 2
    file = ndjson(tmp_path / "x.ndjson", {"a": 1})
    assert run("import", str(tmp_path / "none.csv"), "--metric", "x", "--account", "a") == 2
    assert run("import", file, "--metric", "nope", "--account", "a") == 1
    assert "create it first" in run.err
    assert run("import", file, "--metric", "x", "--account", "a", "--time-format", "weeks") == 2
    assert run("import", "-", "--metric", "x", "--account", "a") == 2
    with pytest.raises(SystemExit) as ended:
        cli.main(["query", "1", "calls", "--server", f"127.0.0.1:{free_port()}"])
    assert ended.value.code == 4
    assert "connection refused" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["query", "1", "nope", "--server", f"127.0.0.1:{free_port()}, {run.address}"])
    assert ended.value.code == 1, "the second of several servers is asked when the first cannot be reached"
    with pytest.raises(SystemExit) as ended:
        cli.main(["frobnicate"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "words", [[], ["metric"], ["metric", "create"], ["import"], ["query"], ["node"], ["dev"], ["cluster"], ["demo"]]
)
def test_help_teaches_and_needs_nothing(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert not ended.value.code
    assert "Usage: unimeter " + " ".join(words) in capsys.readouterr().out


def test_help_is_quick_because_it_loads_no_command() -> None:
    code = "import sys; from unimeter import cli; cli.build(None); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("unimeter.commands.", "unimeter.core", "unimeter.client"))]


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out.startswith(f"unimeter {version} (")
