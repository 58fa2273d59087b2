"""The node as a process: how it starts, what it says, how it stops, and how it refuses."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import v1_client as v1
from tests.harness import Bench
from tests.refused_calls import CAN_REFUSE, IO_SETUP, IO_SUBMIT
from tests.v1_client import Event, V1Client
from unimeter import cli
from unimeter.commands.bench_node import NodeFailed, NodeProcess, free_port
from unimeter.commands.members import members_of
from unimeter.commands.node import size_of
from unimeter.config import Member, NodeConfig
from unimeter.io.real.address import Address
from unimeter.io.real.admin import NODE_FIGURES, _group_families
from unimeter.io.real.options import ServerOptions

T0 = 1_700_000_000_000_000_000
SMALL = ("--memory-max", "64MiB")
RUN = "import sys; from unimeter.cli import main; sys.exit(main())"


def run_node(*arguments: str, python: tuple[str, ...] = (), **options: object) -> subprocess.CompletedProcess[str]:
    """A node that is expected to end by itself."""
    command = [sys.executable, *python, "-c", RUN, "node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path / "data", *SMALL) as process:
        yield process


def test_ready_line_names_the_real_ports_and_what_was_recovered(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "node", "--data-dir", str(tmp_path / "data"), *SMALL]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        pattern = r"ready: serving 127\.0\.0\.1:(\d+) \(admin 127\.0\.0\.1:(\d+)\), 0 events recovered in \d+\.\d s\n"
        match = re.fullmatch(pattern, line)
        assert match is not None, line
        with V1Client("127.0.0.1", int(match[1])) as client:
            assert client.cluster_status().node_count == 1
        assert get(int(match[2]), "/health")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "", "the ready line is all there is on stdout"
        assert process.wait(30) == 0


def test_recovery_that_takes_long_says_how_far_it_is(tmp_path: Path) -> None:
    impatient = "import unimeter.io.real.server as server; server.PROGRESS_SECONDS = 0.0; " + RUN
    command = [sys.executable, "-c", impatient, "node", "--data-dir", str(tmp_path / "data"), *SMALL]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--admin", "off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("ready: ")
        process.terminate()
        assert process.stderr.readline().startswith("recovering: ")


def test_signal_during_recovery_stops_at_once(tmp_path: Path) -> None:
    hasty = "import os; import unimeter.io.real.server as server; "
    hasty += "boot = server.Server._boot; "
    hasty += "server.Server._boot = lambda self: (boot(self), os.kill(os.getpid(), 15)); " + RUN
    command = [sys.executable, "-c", hasty, "node", "--data-dir", str(tmp_path / "data"), *SMALL]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--admin", "off"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not CAN_REFUSE, reason="no filter of system calls for this machine")
@pytest.mark.parametrize("call", [IO_SETUP, IO_SUBMIT])
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_node_whose_kernel_refuses_asynchronous_io_works_without(tmp_path: Path, call: int, error: int) -> None:
    class Refused(NodeProcess):
        def command(self) -> list[str]:
            return [sys.executable, "-m", "tests.refused_calls", f"{call}:{error}", *super().command()]

    admin = free_port()
    with Refused(tmp_path / "data", *SMALL, "--admin", f"127.0.0.1:{admin}") as node:
        for restarts in range(2):
            with V1Client("127.0.0.1", node.port) as client:
                if not restarts:
                    client.metric_put("m", v1.SUM)
                for n in range(10):
                    assert client.ingest([Event("m", 7, T0 + 10 * restarts + n, 1)]).stored == 1
            told = re.search(r"^unimeter_disk_told_writes_total (.*)$", get(admin, "/metrics")[1], re.MULTILINE)
            assert told is not None
            assert float(told[1]) == 0
            node.kill()
            node.start()
            assert f" {10 * (restarts + 1)} events recovered in " in node.ready_line


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_was_acknowledged_is_there_after_any_end(node: NodeProcess, end: signal.Signals) -> None:
    with V1Client("127.0.0.1", node.port) as client:
        client.metric_put("m", v1.SUM)
        assert client.ingest([Event("m", 7, T0 + i, i) for i in range(100)]).stored == 100
        exit_code = node.end(end)
    assert exit_code == (-signal.SIGKILL if end == signal.SIGKILL else 0)
    node.start()
    assert " 100 events recovered in " in node.ready_line
    with V1Client("127.0.0.1", node.port) as client:
        assert client.query(7, "m", T0, T0 + 100).sum == sum(range(100))


def test_requests_on_their_way_are_answered_before_a_clean_stop(node: NodeProcess) -> None:
    with V1Client("127.0.0.1", node.port) as client:
        client.metric_put("m", v1.COUNT)
        ids = [client.send(v1.INGEST_SYNC, v1.ingest_payload([Event("m", 1, T0 + i)])) for i in range(50)]
        assert client.ingested(ids[0]).stored == 1
        os.kill(node.pid, signal.SIGTERM)
        # What the node had read when the signal came is answered; what it had not, is not acknowledged.
        stored = 1
        try:
            for request_id in ids[1:]:
                stored += client.ingested(request_id).stored
        except v1.ConnectionGone:
            pass
    assert node.process is not None
    assert node.process.wait(30) == 0
    node.stop()
    node.start()
    with V1Client("127.0.0.1", node.port) as client:
        assert client.query(1, "m", T0, T0 + 50).count >= stored


def test_client_that_asked_and_ended_its_side_gets_every_answer(node: NodeProcess) -> None:
    with V1Client("127.0.0.1", node.port) as client:
        client.metric_put("calls", v1.SUM)
        client.ingest([Event("calls", 1, T0 + n, 1) for n in range(10)])
    with V1Client("127.0.0.1", node.port) as client:
        asked = [client.send(v1.INGEST_SYNC, v1.ingest_payload([Event("calls", 2, T0 + n, 1)])) for n in range(50)]
        whole = struct.pack("<Qqq64sQ", 1, T0 + 1, T0 + 9, b"calls", 0)  # cuts an hour: the journal is read
        asked.append(client.send(v1.QUERY, whole))
        asked.append(client.send(v1.METRIC_DELETE, v1.padded("no such metric", 64)))
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.receive(number).status for number in asked] == [v1.OK] * 51 + [v1.UNKNOWN_METRIC]
        assert client.socket.recv(1) == b""


def test_many_refusals_of_the_log_do_not_crash_the_collector(node: NodeProcess) -> None:
    """A refusal's traceback used to hold the disk's frame with a lent buffer: collecting that crashed CPython."""
    with V1Client("127.0.0.1", node.port) as client:
        for _ in range(20):
            asked = [client.send(v1.METRIC_DELETE, v1.padded("no such metric", 64)) for _ in range(300)]
            assert {client.receive(number).status for number in asked} == {v1.UNKNOWN_METRIC}
    assert node.stop() == 0


def test_second_process_on_the_directory_is_refused_with_the_name_of_the_first(node: NodeProcess) -> None:
    refused = run_node("--data-dir", str(node.data_dir), "--listen", "127.0.0.1:0", "--admin", "off", *SMALL)
    assert refused.returncode == 3
    assert refused.stdout == ""
    assert f"in use by process {node.pid}" in refused.stderr


def test_taken_port_is_refused_and_names_the_option(node: NodeProcess, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    refused = run_node("--data-dir", other, "--listen", node.address, "--admin", "off", *SMALL)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--listen" in refused.stderr
    refused = run_node("--data-dir", other, "--listen", "127.0.0.1:0", "--admin", node.address, *SMALL)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--admin" in refused.stderr


def test_a_checkpoint_is_due_after_the_journal_that_was_asked_for() -> None:
    listen = Address("127.0.0.1", 7001)
    options = ServerOptions(Path("data"), listen, None, 64 << 20, checkpoint_after_bytes=1 << 20)
    assert options.node_config(listen).checkpoint_after_bytes == 1 << 20
    assert replace(options, checkpoint_after_bytes=None).node_config(listen) == NodeConfig(memory_max_bytes=64 << 20)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--listen", "nonsense"),
        ("--admin", "1.2.3.4:99999"),
        ("--memory-max", "lots"),
        ("--no-such-option", "1"),
        ("--memory-max", "1MiB"),
        ("--checkpoint-after", "1000KiB"),
        ("--advertise", "a-host-name-that-is-much-too-long-for-v1.example:7001"),
        ("--id", "0"),
        ("--id", "256"),
        ("--groups", "65"),
        ("--peer-listen", "127.0.0.1:0"),
        ("--election-ms", "500"),
        ("--election-ms", "500-400"),
        ("--election-ms", "500-1000", "--heartbeat-ms", "400"),
        ("--member", "1"),
        ("--member", "1=127.0.0.1:7001"),
        ("--member", "1=127.0.0.1:7001,nowhere"),
        ("--member", "0=127.0.0.1:7001,127.0.0.1:7101"),
        ("--member", "2=127.0.0.1:7001,127.0.0.1:7101"),
        ("--member", "1=127.0.0.1:7001,127.0.0.1:7001"),
        ("--member", "1=127.0.0.1:7001,127.0.0.1:0"),
        ("--member", "1=0.0.0.0:7001,127.0.0.1:7101"),
        ("--member", "1=name.invalid:7001,127.0.0.1:7101"),
        ("--member", "1=[2001:db8:aaaa:bbbb::1]:7001,127.0.0.1:7101"),
        ("--member", "1=127.0.0.1:7001,127.0.0.1:7101", "--member", "1=127.0.0.1:7002,127.0.0.1:7102"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, wrong: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for round_ in range(2):  # twice: the first one must not have kept the directory
        with pytest.raises(SystemExit) as ended:
            cli.main(
                ["node", "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--admin", "off", *wrong]
            )
        assert ended.value.code == 2, round_
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err


def test_node_does_not_run_without_its_assertions(tmp_path: Path) -> None:
    refused = run_node("--data-dir", str(tmp_path / "data"), python=("-O",))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "python -O" in refused.stderr


def test_failed_disk_is_a_halt_with_its_reason(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk that says no."""
    refused = run_node(
        *("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--admin", "off", *SMALL),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("halted: ")
    assert "File too large" in refused.stderr


def test_health_and_metrics_answer_and_everything_else_is_not_found(tmp_path: Path) -> None:
    port = free_port()
    with NodeProcess(tmp_path / "data", *SMALL, "--admin", f"127.0.0.1:{port}") as node:
        with V1Client("127.0.0.1", node.port) as client:
            client.metric_put("m", v1.COUNT)
            client.ingest([Event("m", 1, T0 + i) for i in range(5)])
            status, body = get(port, "/health")
            metrics_status, metrics = get(port, "/metrics")
        assert status == 200
        health = json.loads(body)
        assert (health["status"], health["events"], health["disk_full"]) == ("ok", 5, False)
        assert metrics_status == 200
        assert "unimeter_events_stored_total 5.0" in metrics
        assert "unimeter_links 1.0" in metrics
        assert 'unimeter_journal_write_seconds_bucket{le="+Inf"}' in metrics
        assert "# HELP unimeter_events_stored_total " in metrics
        assert get(port, "/")[0] == get(port, "/metrics/x")[0] == 404
        assert get(port, "/health", "POST")[0] == 405


def test_silent_admin_connections_do_not_keep_health_from_answering(tmp_path: Path) -> None:
    port = free_port()
    with NodeProcess(tmp_path / "data", *SMALL, "--admin", f"127.0.0.1:{port}"):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        assert get(port, "/health")[0] == 200
        for connection in silent:
            connection.close()


def test_every_counter_of_the_node_has_a_metric() -> None:
    bench = Bench()
    bench.disk()
    assert bench.node.ready
    assert set(bench.node.counters()) <= set(NODE_FIGURES)


def test_node_that_cannot_start_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").symlink_to(tmp_path)
    with (
        pytest.raises(NodeFailed, match="neither a plain file nor a directory"),
        NodeProcess(tmp_path / "data", *SMALL),
    ):
        raise AssertionError("it must not start")


def test_members_are_sorted_and_told_to_clients_as_numbers() -> None:
    own = "2=localhost:7002,localhost:7102"
    assert members_of([own, "1=10.0.0.1:7001,peer.example:7101"], 2) == (
        Member(1, "10.0.0.1:7001", "peer.example:7101"),
        Member(2, "127.0.0.1:7002", "localhost:7102"),
    )


def test_taken_peer_port_is_refused_and_names_the_option(tmp_path: Path) -> None:
    client = f"127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        peer = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = run_node(
            *("--data-dir", str(tmp_path / "data"), "--admin", "off", *SMALL, "--member", f"1={client},{peer}")
        )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--peer-listen" in refused.stderr


def test_figures_of_groups_are_labelled_with_their_group() -> None:
    rows = [
        {"group": 0, "role": "leader", "leader": 2, "term": 3, "commit": 9, "applied": 8, "last": 10, "lag": {1: 4}},
        {"group": 7, "role": "follower", "leader": 0, "term": 1, "commit": 5, "applied": 5, "last": 5},
    ]
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in _group_families(rows, 2)
        for sample in family.samples
    }
    assert samples["unimeter_group_leader", "0"] == 1
    assert samples["unimeter_group_leader", "7"] == samples["unimeter_group_leader_known", "7"] == 0
    assert samples["unimeter_group_term", "0"] == 3
    assert samples["unimeter_group_applied_index", "7"] == 5
    assert samples["unimeter_group_peer_lag_entries", "0", "1"] == 4


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 << 30),
        ("512M", 512 << 20),
        ("1.5g", 3 << 29),
        ("1000000", 1000000),
        ("64 kib", 64 << 10),
        ("1TB", 1 << 40),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert size_of(text) == size


def test_full_disk_is_refused_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(mounted)], capture_output=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no way to mount a small file system: {error}")
    if made.returncode:
        pytest.skip(f"may not mount a small file system here: {made.stderr.decode().strip()}")
    try:
        filler = mounted / "filler"
        filler.write_bytes(bytes(100 << 20))  # leaves room for two segments, not for three
        batch = v1.ingest_payload([Event("m", account % 100) for account in range(20_000)])  # stamped on arrival
        with NodeProcess(mounted / "data", *SMALL) as node, V1Client("127.0.0.1", node.port) as client:
            client.metric_put("m", v1.COUNT)
            stored = 0
            for _ in range(400):
                answer = client.receive(client.send(v1.INGEST_SYNC, batch))
                if answer.status == v1.BACKPRESSURE:
                    break
                assert answer.status == v1.OK
                stored += 20_000
            assert answer.status == v1.BACKPRESSURE, "the disk never became full"
            assert client.query(1, "m", 0, 2**62).count == stored // 100
            filler.unlink()
            deadline = time.monotonic() + 30
            while answer.status == v1.BACKPRESSURE and time.monotonic() < deadline:
                answer = client.receive(client.send(v1.INGEST_SYNC, batch))
            assert answer.status == v1.OK, "there is room again"
            stored += 20_000
            node.kill()
            node.start()
            with V1Client("127.0.0.1", node.port) as again:
                assert again.query(1, "m", 0, 2**62).count == stored // 100
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
