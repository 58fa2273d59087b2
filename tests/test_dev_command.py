"""`unimeter dev` as a process: it starts nodes, shows them, goes on when one dies, and stops them all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

from tests.test_node_process import get
from unimeter import cli
from unimeter.commands.dev import ADMIN_PORT_ABOVE, FILE, PEER_PORT_ABOVE, Layout

WAIT_S = 60.0
POLL_S = 0.02
SMALL = ("--memory-max", "64MiB")


def free_ports() -> int:
    """A first port for a cluster of three, as nobody uses now."""
    for port in range(20_000 + os.getpid() % 10_000, 40_000, 7):
        wanted = [port + above + n for above in (0, PEER_PORT_ABOVE, ADMIN_PORT_ABOVE) for n in range(3)]
        try:
            for each in wanted:
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


class Dev:
    """A running `unimeter dev`."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "unimeter.cli", "dev", "--data-dir", str(directory), *SMALL, *options]
        self.log_path = directory.with_name(directory.name + ".log")
        self.out_path = directory.with_name(directory.name + ".out")
        with self.log_path.open("wb") as log, self.out_path.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=log)

    def __enter__(self) -> Dev:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.terminate()
            self.process.wait(WAIT_S)

    def said(self) -> str:
        return self.log_path.read_text(errors="replace")

    def out(self) -> str:
        return self.out_path.read_text()

    def ready(self) -> list[str]:
        """The addresses of the ready line."""
        return self.until(self.out, r"ready: (.*)\n(?s:.*)stays in").group(1).split(",")

    def until_said(self, pattern: str) -> re.Match[str]:
        return self.until(self.said, pattern)

    def until(self, text: Callable[[], str], pattern: str) -> re.Match[str]:
        until = time.monotonic() + WAIT_S
        while True:
            ended = self.process.poll() is not None
            found = re.search(pattern, text())
            if found is not None:
                return found
            assert not ended, self.said()
            assert time.monotonic() < until, self.said()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_S)

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"node\d \| process (\d+)", self.said())]

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(WAIT_S)


@pytest.fixture
def port() -> int:
    return free_ports()


def test_nodes_are_started_announced_and_stopped_together(tmp_path: Path, port: int) -> None:
    with Dev(tmp_path / "dev", "--port", str(port), "--groups", "4") as dev:
        addresses = dev.ready()
        assert addresses == [f"127.0.0.1:{port + n}" for n in range(3)]
        assert f'Client(["{addresses[0]}", "{addresses[1]}", "{addresses[2]}"])' in dev.out()
        assert all(get(port + ADMIN_PORT_ABOVE + n, "/health")[0] == 200 for n in range(3))
        assert dev.stop() == 0
        for n in range(1, 4):
            assert f"node{n} | ready: serving " in dev.said()
            assert f"node{n} | stopped" in dev.said()
        assert json.loads((tmp_path / "dev" / FILE).read_text()) == {"nodes": 3, "groups": 4, "port": port}
    with Dev(tmp_path / "dev") as again:  # everything is remembered
        assert again.ready() == addresses
        assert again.stop(signal.SIGTERM) == 0


def test_node_that_dies_is_reported_and_the_others_go_on(tmp_path: Path, port: int) -> None:
    with Dev(tmp_path / "dev", "--port", str(port)) as dev:
        dev.ready()
        (victim,) = dev.until_said(r"node2 \| process (\d+)").groups()
        os.kill(int(victim), signal.SIGKILL)
        dev.until_said(r"node2 \| DIED: it was killed by SIGKILL; 2 of 3 nodes go on")
        assert dev.process.poll() is None
        assert get(port + ADMIN_PORT_ABOVE, "/health")[0] == 200
        assert dev.stop() == 1


def test_end_of_the_last_node_is_the_end(tmp_path: Path, port: int) -> None:
    with Dev(tmp_path / "dev", "--nodes", "1", "--port", str(port)) as dev:
        assert dev.ready() == [f"127.0.0.1:{port}"]
        os.kill(dev.pids()[0], signal.SIGTERM)  # cleanly, but nobody asked this process
        assert dev.process.wait(WAIT_S) == 1
        assert "DIED: it ended with exit code 0; 0 of 1 nodes go on" in dev.said()


def test_second_ctrl_c_does_not_wait(tmp_path: Path, port: int) -> None:
    with Dev(tmp_path / "dev", "--nodes", "1", "--port", str(port)) as dev:
        dev.ready()
        (pid,) = dev.pids()
        os.kill(pid, signal.SIGSTOP)  # a node that would never stop
        dev.process.send_signal(signal.SIGINT)
        dev.until_said("stopping")
        assert dev.stop() == 1
        assert "killed by SIGKILL" in dev.said()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_nodes_do_not_outlive_a_killed_parent(tmp_path: Path, port: int) -> None:
    with Dev(tmp_path / "dev", "--nodes", "1", "--port", str(port)) as dev:
        dev.ready()
        dev.process.kill()
        dev.process.wait(WAIT_S)
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                return
    raise AssertionError("the node still serves")


def test_taken_port_is_named_before_anything_starts(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", port + PEER_PORT_ABOVE + 1)), pytest.raises(SystemExit) as ended:
        cli.main(["dev", "--data-dir", str(tmp_path / "dev"), "--port", str(port)])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"127.0.0.1:{port + PEER_PORT_ABOVE + 1}" in said
    assert "--port" in said
    assert not (tmp_path / "dev" / "node1").exists()


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--nodes", "2"], "1, 3 or 5"),
        (["--nodes", "5"], "made with --nodes 3"),
        (["--groups", "2"], "made with --groups 8"),
        (["--port", "1234"], "made with --port 7001"),
        (["--memory-max", "1MiB"], "at least 64MiB"),
        (["--port", "65535"], "less than or equal to"),
    ],
)
def test_what_does_not_fit_the_directory_is_refused_with_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], fix: str
) -> None:
    (tmp_path / FILE).write_text(json.dumps({"nodes": 3, "groups": 8, "port": 7001}))
    with pytest.raises(SystemExit) as ended:
        cli.main(["dev", "--data-dir", str(tmp_path), *words])
    assert ended.value.code == 2
    assert fix in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_damaged_memory_of_a_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("", "[]", '{"nodes": 3}', '{"nodes": "x", "groups": 1, "port": 1}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(SystemExit) as ended:
            cli.main(["dev", "--data-dir", str(tmp_path)])
        assert ended.value.code == 2
        assert FILE in re.sub(r"[\s│]", "", capsys.readouterr().err)  # the box breaks long paths


def test_every_node_gets_the_same_list_of_members(tmp_path: Path) -> None:
    layout = Layout(3, 8, 7001)
    lists = []
    for node_id in layout.node_ids():
        options = layout.node_options(node_id, tmp_path, "1GiB")
        assert options[: options.index("--groups")] == [
            "--id", str(node_id), "--data-dir", str(tmp_path / f"node{node_id}"),
        ]  # fmt: skip
        lists.append([options[n + 1] for n, word in enumerate(options) if word == "--member"])
    assert lists[0] == lists[1] == lists[2]
    assert lists[0][1] == "2=127.0.0.1:7002,127.0.0.1:7102"
