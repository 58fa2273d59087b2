"""A node in a process of its own, for benchmarks and for tests that kill it: start, wait until it is ready,
see what it costs, stop it or kill it."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType

STOP_WAIT_S = 60.0
PORTS_REMEMBERED = 1000


class NodeFailed(Exception):
    """The node did not start, or ended by itself; the message carries what it wrote to stderr."""


_given: deque[int] = deque(maxlen=PORTS_REMEMBERED)


def free_port() -> int:
    """A port that nobody listens on, and that this process was not given lately: who asked may not listen there yet."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        if port not in _given:
            _given.append(port)
            return port


class NodeProcess:
    """`with NodeProcess(directory) as node:` starts a node there and ends it at the end, whatever happens.

    `start` may be called again after `kill` or `stop`: the same directory and port, a new process.
    """

    def __init__(self, data_dir: Path, *options: str, port: int = 0) -> None:
        self.data_dir = data_dir
        self.options = options
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_line = ""
        self.start_s = 0.0

    def __enter__(self) -> NodeProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self) -> list[str]:
        code = "import sys; from unimeter.cli import main; sys.exit(main())"
        options = ["--data-dir", str(self.data_dir), "--listen", self.address, "--admin", "off", *self.options]
        return [sys.executable, "-c", code, "node", *options]

    def start(self, wait_s: float = 120.0) -> float:
        """Start and wait for the line that begins with "ready". Returns the seconds it took."""
        assert self.process is None
        before = time.monotonic()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL
            )
        self.ready_line = self.await_ready(before + wait_s)
        self.start_s = time.monotonic() - before
        return self.start_s

    def await_ready(self, until: float) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        output = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < until:
                if not selector.select(until - time.monotonic()):
                    continue
                part = os.read(self.process.stdout.fileno(), 65536)
                output += part
                for line in output.decode(errors="replace").splitlines():
                    if line.startswith("ready"):
                        return line
                if not part:
                    break
        said = self.log_path.read_text(errors="replace")[-2000:]
        self.kill()
        raise NodeFailed(f"the node did not become ready\n{output.decode(errors='replace')}{said}")

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM: drain and stop cleanly. Returns the exit code."""
        return self.end(signal.SIGTERM)

    def end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(how)
        if process.stdout is not None:
            process.stdout.close()
        try:
            return process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise NodeFailed(f"the node did not end within {STOP_WAIT_S:.0f} s of {how.name}") from None

    # ---- what it costs ----

    def cpu_ns(self) -> int:
        """CPU time of the process so far, threads that ended included (Linux: the clock id of another process)."""
        return time.clock_gettime_ns(~self.pid << 3 | 2)

    def cpu_by_thread_ns(self) -> dict[str, int]:
        spent: dict[str, int] = {}
        for task in sorted(Path(f"/proc/{self.pid}/task").iterdir()):
            name = f"{(task / 'comm').read_text().strip()}/{task.name}"
            spent[name] = int((task / "schedstat").read_text().split()[0])
        return spent

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
