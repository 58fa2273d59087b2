"""Claims about `unimeter import`: what is in the node afterwards is what the file says, whatever happened on the way."""

from __future__ import annotations

import csv
import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from unimeter import AggType, Client, MetricSchema, Period, cli
from unimeter.client.times import month_bounds
from unimeter.commands.bench_node import NodeProcess

COLUMNS = ("who", "bytes", "at", "region", "tier")
ROWS = 20_000
MONTHS = ["2025-12", *(f"2026-{month:02d}" for month in range(1, 13)), "2027-01"]
MAPPING = ["--account", "who", "--value", "bytes", "--time", "at", "--property", "region", "--property", "tier"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("import") / "data", "--memory-max", "256MiB") as started:
        yield started


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str], node: NodeProcess) -> None:
        self._capsys = capsys
        self._address = node.address
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--server", self._address])
        self.out, self.err = self._capsys.readouterr()
        return int(ended.value.code or 0)

    def counts(self) -> dict[str, float]:
        """The summary line as numbers: rows read, stored, duplicates, conflicts, refused, bad, seconds."""
        return {word: float(number) for word, number in (part.rsplit(" ", 1) for part in self.out.strip().split(", "))}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], node: NodeProcess) -> Shell:
    return Shell(capsys, node)


@pytest.fixture(scope="module")
def usage_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numeric and text accounts, negative values, a year of times in several zones, empty properties, equal rows."""
    dice = random.Random(5)
    path = tmp_path_factory.mktemp("data") / "usage.csv"
    accounts = ["7", "18446744073709551615", "acme", "Zürich, Süd", 'the "quoted" one', "007"]
    rows = []
    for _ in range(ROWS - 500):
        at = datetime.fromtimestamp(1_767_225_600 + dice.randrange(366 * 86_400), UTC).isoformat()
        if dice.random() < 0.3:
            at = at.replace("+00:00", ".123456789+02:00")
        region, tier = dice.choice(["eu", "us", "", "ap-süd"]), dice.choice(["free", "pro"])
        rows.append((dice.choice(accounts), str(dice.randrange(-1000, 10**9)), at, region, tier))
    rows += dice.sample(rows, 500)
    dice.shuffle(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def totals_in_sql(path: Path) -> dict[tuple[str, str, str], tuple[int, int, int, int]]:
    """(account, month, region) -> (count, sum, min, max), by duckdb."""
    relation = duckdb.connect()
    found = relation.execute(
        "select who, strftime(make_timestamp(epoch_us(\"at\"::timestamptz)), '%Y-%m'), coalesce(region, ''), count(*), sum(bytes::hugeint)::bigint,"
        f" min(bytes::bigint), max(bytes::bigint) from read_csv('{path}', all_varchar = true, quote = '\"', escape = '\"')"
        " group by all"
    ).fetchall()
    return {(row[0], row[1], row[2]): tuple(row[3:]) for row in found}


def account_named(text: str) -> int | str:
    return int(text) if text.isdigit() and not text.startswith("0") else text


def totals_in_node(address: str, metric: str, accounts: set[str]) -> dict[tuple[str, str, str], tuple[int, ...]]:
    found = {}
    with Client([address]) as client:
        for account in sorted(accounts):
            for month in MONTHS:
                period = Period(*month_bounds(datetime.fromisoformat(f"{month}-01T00:00Z"), 1))
                rows = client.query_breakdown(account_named(account), metric, period, group_by=["region"])
                whole = client.query(account_named(account), metric, period).value
                assert whole.count == sum(row.value.count for row in rows)
                for row in rows:
                    value = row.value
                    if value.count:
                        key = (account, month, row.dimensions["region"])
                        found[key] = (value.count, value.sum, value.min or 0, value.max or 0)
    return found


def test_totals_are_what_sql_computes_and_importing_again_changes_nothing(
    run: Shell, node: NodeProcess, usage_csv: Path
) -> None:
    words = ["import", str(usage_csv), "--metric", "usage", *MAPPING]
    assert run("metric", "create", "usage", "--agg", "sum", "--dimension", "region", "--dimension", "tier") == 0
    assert run(*words) == 0
    assert run.counts() | {"seconds": 0} == {
        "rows read": ROWS, "stored": ROWS, "duplicates": 0, "conflicts": 0, "refused": 0, "bad": 0, "seconds": 0,
    }  # fmt: skip
    expected = totals_in_sql(usage_csv)
    accounts = {key[0] for key in expected}
    assert len(accounts) == 6
    assert totals_in_node(node.address, "usage", accounts) == expected
    assert run(*words, "--batch", "777") == 0
    assert (run.counts()["stored"], run.counts()["duplicates"]) == (0, ROWS)
    assert totals_in_node(node.address, "usage", accounts) == expected


def test_the_same_data_as_gzip_and_ndjson_under_the_same_name_adds_nothing(
    run: Shell, usage_csv: Path, tmp_path: Path
) -> None:
    assert run("metric", "create", "copies", "--agg", "sum", "--dimension", "region", "--dimension", "tier") == 0
    assert run("import", str(usage_csv), "--metric", "copies", *MAPPING, "--source", "one") == 0
    assert run.counts()["stored"] == ROWS
    zipped = tmp_path / "other.csv.gz"
    zipped.write_bytes(gzip.compress(usage_csv.read_bytes()))
    assert run("import", str(zipped), "--metric", "copies", *MAPPING, "--source", "one") == 0
    assert run.counts()["duplicates"] == ROWS
    lines = tmp_path / "usage.ndjson"
    with usage_csv.open(newline="") as file, lines.open("w") as out:
        for row in csv.DictReader(file):
            out.write(json.dumps(row | {"bytes": int(row["bytes"]), "region": row["region"] or None}) + "\n")
    assert run("import", str(lines), "--metric", "copies", *MAPPING, "--source", "one") == 0
    assert run.counts()["duplicates"] == ROWS


def test_an_import_killed_half_way_is_completed_by_the_same_command(
    run: Shell, node: NodeProcess, usage_csv: Path
) -> None:
    words = ["import", str(usage_csv), "--metric", "killed", *MAPPING, "--batch", "100"]
    assert run("metric", "create", "killed", "--agg", "sum", "--dimension", "region", "--dimension", "tier") == 0
    with Client([node.address]) as client:
        for rows in (2000, 4000):
            importer = subprocess.Popen(
                [sys.executable, "-m", "unimeter.cli", *words, "--server", node.address], stdout=subprocess.DEVNULL
            )
            before = client.status()["events"]
            while importer.poll() is None and client.status()["events"] < before + rows:
                pass
            importer.send_signal(signal.SIGKILL)
            importer.wait()
    assert run(*words) == 0
    counts = run.counts()
    assert counts["duplicates"] > 0, "it was killed after something was stored"
    assert counts["stored"] > 0, "it was killed before everything was stored"
    assert counts["stored"] + counts["duplicates"] == ROWS
    expected = totals_in_sql(usage_csv)
    assert totals_in_node(node.address, "killed", {key[0] for key in expected}) == expected


def test_an_import_outlives_a_node_that_is_killed_and_started_again(usage_csv: Path, tmp_path: Path) -> None:
    with NodeProcess(tmp_path / "data", "--memory-max", "256MiB") as own:
        with Client([own.address]) as client:
            client.metrics.create(MetricSchema("usage", AggType.SUM, ["region", "tier"]))
            words = ["import", str(usage_csv), "--metric", "usage", *MAPPING, "--batch", "50", "--server", own.address]
            importer = subprocess.Popen(
                [sys.executable, "-m", "unimeter.cli", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            while importer.poll() is None and client.status()["events"] < 2000:
                pass
        own.kill()
        own.start()
        out, err = importer.communicate(timeout=60)
        assert importer.returncode == 0, err
        assert f"rows read {ROWS}, stored {ROWS}, duplicates 0," in out, "a retry gets the first answer"
        expected = totals_in_sql(usage_csv)
        assert totals_in_node(own.address, "usage", {key[0] for key in expected}) == expected


def test_bad_rows_are_named_by_line_and_the_others_imported(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    good = "acme,1,2026-01-01,eu,pro"
    lines = [
        ",".join(COLUMNS),  # 1
        good,  # 2
        ",1,2026-01-01,eu,pro",  # 3: no account
        "acme,1.5,2026-01-01,eu,pro",  # 4: no whole number
        "acme,,2026-01-01,eu,pro",  # 5: no value
        "acme,1,yesterday,eu,pro",  # 6: no time
        "acme,1,2026-01-01,eu",  # 7: a column too few
        f"{'x' * 129},1,2026-01-01,eu,pro",  # 8: an account too long
        f"acme,1,2026-01-01,{'x' * 256},pro",  # 9: a property too long
        '"two',  # 10 and 11: one good row on two lines
        'lines",1,2026-01-01,eu,pro',
        "",  # 12: nothing
        "acme,9223372036854775808,2026-01-01,eu,pro",  # 13: too large
        "acme,1,1969-12-31,eu,pro",  # 14: before 1970
        "acme,1,1767225600,eu,pro",  # 15: seconds?
        "acme,1_000,2026-01-01,eu,pro",  # 16: no number
        good,  # 17
    ]
    file.write_bytes("\n".join(lines).encode() + b"\nacm\xff,1,2026-01-01,eu,pro\n")
    assert run("metric", "create", "flawed", "--agg", "sum", "--dimension", "region") == 0
    report = tmp_path / "report.csv"
    assert run("import", str(file), "--metric", "flawed", *MAPPING, "--bad-rows", str(report), "--strict") == 1
    assert run.out == ""
    assert "nothing was imported" in run.err
    assert run("import", str(file), "--metric", "flawed", *MAPPING, "--bad-rows", str(report)) == 1
    counts = run.counts()
    assert (counts["rows read"], counts["stored"], counts["bad"]) == (15, 3, 12)
    named = [int(line.split(":")[0].removeprefix("line ")) for line in run.err.splitlines() if line.startswith("line ")]
    assert named == [3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 18]
    assert "note: not dimensions of flawed" in run.err
    with report.open(newline="", errors="surrogateescape") as opened:
        assert [int(row["line"]) for row in csv.DictReader(opened)] == named
    assert run("query", "acme", "flawed", "--json") == 0
    assert json.loads(run.out)["sum"] == 2
    assert run("query", "two\nlines", "flawed", "--json") == 0
    assert json.loads(run.out)["count"] == 1


def test_bad_ndjson_is_named_by_line(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "bad.ndjson"
    lines = ['{"a": 1}', "[1]", '{"a": {"b": "deep"}, "n": true}', "{", '{"a": "x", "n": NaN}', "", '{"a": "x"}']
    file.write_text("\n".join(lines))
    assert run("metric", "create", "json", "--agg", "count") == 0
    assert run("import", str(file), "--metric", "json", "--account", "a") == 1
    assert [line.split(":")[0] for line in run.err.splitlines()] == ["line 2", "line 3", "line 4", "line 5"]
    assert (run.counts()["stored"], run.counts()["bad"]) == (2, 4)
    assert run("import", str(file), "--metric", "json", "--account", "a.b", "--source", "deep") == 1
    assert run.counts()["stored"] == 1


def test_many_bad_rows_are_counted_though_only_the_first_are_named(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("a,v\n" + "x,?\n" * 50)
    assert run("metric", "create", "many", "--agg", "sum") == 0
    assert run("import", str(file), "--metric", "many", "--account", "a", "--value", "v") == 1
    assert run.counts()["bad"] == 50
    assert len([line for line in run.err.splitlines() if line.startswith("line ")]) == 20
    assert "and 30 more" in run.err


def test_ids_of_the_file_are_the_identity_of_its_events(run: Shell, tmp_path: Path) -> None:
    assert run("metric", "create", "orders", "--agg", "sum") == 0
    words = ["--metric", "orders", "--account", "a", "--value", "v", "--id", "id"]
    first = tmp_path / "first.csv"
    first.write_text("a,v,id\n1,5,x\n1,5,x\n2,5,x\n1,7,y\n1,1,\n")
    assert run("import", str(first), *words) == 1
    assert (run.counts()["stored"], run.counts()["duplicates"], run.counts()["bad"]) == (3, 1, 1)
    assert "line 6: the id is empty" in run.err
    second = tmp_path / "second.csv"
    second.write_text("a,v,id\n1,5,x\n1,8,y\n1,9,z\n")
    assert run("import", str(second), *words) == 1
    assert (run.counts()["stored"], run.counts()["duplicates"], run.counts()["conflicts"]) == (1, 1, 1)
    assert "line 3: its id is already known with another content" in run.err
    assert run("query", "1", "orders", "--json") == 0
    assert json.loads(run.out)["sum"] == 5 + 7 + 9


def test_rows_without_a_time_are_stamped_once(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "untimed.tsv"
    file.write_text("who\tamount\n" + "acme\t1.25\n" * 3)
    assert run("metric", "create", "untimed", "--agg", "sum") == 0
    words = ["import", str(file), "--metric", "untimed", "--account", "who", "--value", "amount", "--scale", "6"]
    for stored in (3, 0):
        assert run(*words, "--delimiter", "\\t") == 0
        assert run.counts()["stored"] == stored
    assert run("query", "acme", "untimed", "--json") == 0
    assert json.loads(run.out)["sum"] == 3_750_000


@pytest.mark.parametrize(
    ("time_format", "text"),
    [("s", "1767225600.5"), ("ms", "1767225600500"), ("us", "1767225600500000"), ("ns", "1767225600500000000"),
     ("auto", "1767225600500000000"), ("%d/%m/%Y %H:%M:%S.%f", "01/01/2026 00:00:00.5"),
     ("%Y-%m-%d %H:%M:%S.%f %z", "2026-01-01 02:00:00.5 +0200")],
)  # fmt: skip
def test_times_are_read_as_told(run: Shell, tmp_path: Path, time_format: str, text: str) -> None:
    assert run("metric", "create", "timed", "--agg", "sum") == 0
    file = tmp_path / "timed.csv"
    file.write_text(f"who,at\nacme,{text}\n")
    words = ["import", str(file), "--metric", "timed", "--account", "who", "--time", "at", "--time-format", time_format]
    assert run(*words) == 0
    assert run("query", "acme", "timed", "--from", "1767225600500000000", "--to", "1767225600500000001", "--json") == 0
    assert json.loads(run.out)["count"] == 1


def test_seats_come_and_go(run: Shell, tmp_path: Path) -> None:
    assert run("metric", "create", "seats", "--agg", "count-unique", "--recurring") == 0
    file = tmp_path / "seats.csv"
    file.write_text(
        "who,seat,what,at\na,1,add,2026-01-01\na,2,add,2026-01-02\na,1,remove,2026-02-01\na,9,Fire,2026-01-01\n"
    )
    words = ["--metric", "seats", "--account", "who", "--value", "seat", "--time", "at", "--operation", "what"]
    assert run("import", str(file), *words) == 1
    assert "line 5: the operation" in run.err
    for end, seats in (("2026-01-02", 1), ("2026-02-01", 2), ("2026-02-02", 1)):
        assert run("query", "a", "seats", "--to", end, "--json") == 0
        assert json.loads(run.out)["unique"] == seats


def test_a_column_that_is_not_there_is_wrong_usage(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "columns.csv"
    file.write_text("a,b,b\n1,2,3\n")
    assert run("metric", "create", "columns", "--agg", "sum") == 0
    assert run("import", str(file), "--metric", "columns", "--account", "who") == 2
    assert "no column 'who'" in run.err
    assert run("import", str(file), "--metric", "columns", "--account", "a", "--value", "b") == 2
    (tmp_path / "empty.csv").write_text("")
    assert run("import", str(tmp_path / "empty.csv"), "--metric", "columns", "--account", "a") == 2
