"""The systems that compare.py puts side by side: how each is started, and how a sane user would meter with it.

Every one gets the same events (an id each, account, metric, hour, value), must count each id once, must have it on disk when
it answers, and keeps a count and a sum per account, metric and hour.

    unimeter     one node; the Python SDK, or the C generator of `unimeter bench load` (v2, ids)
    redis        append-only file, fsync always; one Lua script per batch: SET NX per id (with an expiry, as everybody
                 must), HINCRBY of count and sum. It keeps no events, only their ids
    postgres     fsync and synchronous_commit on; one statement per batch: insert the events with ON CONFLICT DO NOTHING,
                 and upsert the totals of those that were new, in the order of the key, so that clients do not deadlock

Servers are started in a temporary directory on a free port, and ended.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.common import Settings, node
from unimeter.commands.bench_node import free_port

ID_SECONDS = 86_400  # how long redis remembers an id
START_SECONDS_MAX = 30.0
METRICS = ("bench_00", "bench_01", "bench_02", "bench_03", "bench_04")
HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True)
class Batch:
    """Columns, one value per event."""

    ids: list[str]
    accounts: list[int]
    metrics: list[int]
    times_ns: list[int]
    values: list[int]


class Client(Protocol):
    def send(self, batch: Batch) -> int:
        """How many of the events were new."""

    def close(self) -> None: ...


@dataclass
class Server:
    """A rival that runs."""

    connect: Callable[[], Client]
    counted: Callable[[], int]  # all events in all totals
    pid: int
    version: str
    address: str


def cpu_ns(pid: int) -> int:
    """CPU of a process, its children that run, and those that have ended."""
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    spent = sum(map(int, fields[11:15])) * tick_ns
    return spent + sum(cpu_ns(int(child)) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


# ---- unimeter ----


class SdkClient:
    def __init__(self, address: str) -> None:
        from unimeter import Client as Sdk

        self._sdk = Sdk([address])

    def send(self, batch: Batch) -> int:
        from unimeter import Event

        columns = zip(batch.accounts, batch.metrics, batch.values, batch.times_ns, batch.ids, strict=True)
        events = [Event(account, METRICS[metric], value, at, id=id_) for account, metric, value, at, id_ in columns]
        return self._sdk.ingest(events).stored

    def close(self) -> None:
        self._sdk.close()


@contextmanager
def unimeter(settings: Settings, place: Path) -> Iterator[Server]:
    from unimeter import AggType, MetricSchema, __version__
    from unimeter import Client as Sdk

    admin = f"127.0.0.1:{free_port()}"
    with node(settings, place, "--admin", admin) as cluster:
        address = cluster.nodes[1].address
        with Sdk([address]) as sdk:
            for code in METRICS:
                sdk.metrics.create(MetricSchema(code=code, agg_type=AggType.SUM))

        def counted() -> int:
            with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
                found = re.search(r"^unimeter_events_stored_total ([0-9.e+]+)$", answer.read().decode(), re.MULTILINE)
            assert found is not None
            return int(float(found[1]))

        yield Server(lambda: SdkClient(address), counted, cluster.nodes[1].pid, f"unimeter {__version__}", address)


# ---- redis ----

SCRIPT = """
local new = 0
for i = 1, #ARGV, 4 do
  if redis.call('SET', 'e:' .. ARGV[i], 1, 'NX', 'EX', {seconds}) then
    redis.call('HINCRBY', ARGV[i + 1], ARGV[i + 2] .. ':n', 1)
    redis.call('HINCRBY', ARGV[i + 1], ARGV[i + 2] .. ':s', ARGV[i + 3])
    new = new + 1
  end
end
return new
""".replace("{seconds}", str(ID_SECONDS))


class RedisClient:
    def __init__(self, port: int) -> None:
        import redis

        self._redis = redis.Redis(port=port)
        self._script: Any = self._redis.register_script(SCRIPT)

    def send(self, batch: Batch) -> int:
        arguments: list[Any] = []
        for id_, account, metric, at, value in zip(
            batch.ids, batch.accounts, batch.metrics, batch.times_ns, batch.values, strict=True
        ):
            arguments += (id_, f"t:{account}:{metric}", at // HOUR_NS, value)
        return int(self._script(args=arguments))

    def close(self) -> None:
        self._redis.close()


def why_no_redis() -> str:
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: apt install redis-server)"
    return needs("redis")


@contextmanager
def redis_server(settings: Settings, place: Path) -> Iterator[Server]:
    import redis

    port, directory = free_port(), place / "redis"
    directory.mkdir(exist_ok=True)
    options = [
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--dir",
        directory,
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]
    options += ["--save", "", "--daemonize", "no", "--logfile", directory / "log"]
    with subprocess.Popen(["redis-server", *map(str, options)]) as process:
        try:
            client: Any = redis.Redis(port=port, decode_responses=True)
            until(lambda: client.ping(), redis.ConnectionError)

            def counted() -> int:
                return sum(
                    int(value)
                    for key in client.scan_iter("t:*", count=10_000)
                    for name, value in client.hgetall(key).items()
                    if name.endswith(":n")
                )

            version = f"redis {client.info('server')['redis_version']}"
            yield Server(lambda: RedisClient(port), counted, process.pid, version, f"127.0.0.1:{port}")
        finally:
            process.kill()


# ---- postgres ----

TABLES = """
CREATE TABLE events (id text PRIMARY KEY, account bigint NOT NULL, metric int NOT NULL, at_ns bigint NOT NULL, value bigint NOT NULL);
CREATE TABLE totals (account bigint, metric int, hour bigint, n bigint NOT NULL, s numeric NOT NULL, PRIMARY KEY (account, metric, hour));
"""
STATEMENT = f"""
WITH fresh AS (
  INSERT INTO events SELECT * FROM unnest(%s::text[], %s::bigint[], %s::int[], %s::bigint[], %s::bigint[])
  ON CONFLICT (id) DO NOTHING RETURNING account, metric, at_ns / {HOUR_NS} AS hour, value
), added AS (
  INSERT INTO totals SELECT account, metric, hour, count(*), sum(value) FROM fresh GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
  ON CONFLICT (account, metric, hour) DO UPDATE SET n = totals.n + excluded.n, s = totals.s + excluded.s
)
SELECT count(*) FROM fresh
"""
POSTGRES_OPTIONS = {
    "fsync": "on", "synchronous_commit": "on", "shared_buffers": "512MB", "max_wal_size": "4GB",
    "checkpoint_completion_target": "0.9", "listen_addresses": "127.0.0.1",
}  # fmt: skip


class PostgresClient:
    def __init__(self, connection: str) -> None:
        import psycopg

        self._connection = psycopg.connect(connection, autocommit=True)

    def send(self, batch: Batch) -> int:
        columns = (batch.ids, batch.accounts, batch.metrics, batch.times_ns, batch.values)
        row = self._connection.execute(STATEMENT, columns, prepare=True).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self._connection.close()


def postgres_program(name: str) -> str | None:
    """On the path, or where Debian puts it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or (str(found[0]) if found else None)


def why_no_postgres() -> str:
    for name in ("postgres", "initdb"):
        if postgres_program(name) is None:
            return f"{name} is not installed (Debian: apt install postgresql)"
    return needs("psycopg")


@contextmanager
def postgres(settings: Settings, place: Path) -> Iterator[Server]:
    import psycopg

    port, directory = free_port(), place / "postgres"
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name  # it refuses to run as root
    directory.mkdir()
    place.chmod(0o711)
    shutil.chown(directory, user)
    as_user: dict[str, Any] = {"user": user, "cwd": directory} if os.geteuid() == 0 else {"cwd": directory}
    initdb, program = postgres_program("initdb"), postgres_program("postgres")
    assert initdb is not None
    assert program is not None
    create = [initdb, "-D", str(directory / "data"), "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, **as_user)
    options = [part for key, value in POSTGRES_OPTIONS.items() for part in ("-c", f"{key}={value}")]
    options += ["-c", f"port={port}", "-c", f"unix_socket_directories={directory}"]
    with (directory.parent / "postgres.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-D", str(directory / "data"), *options], stderr=log, stdout=log, **as_user
        )
    connection = f"host=127.0.0.1 port={port} user=bench dbname=postgres"
    try:
        until(lambda: psycopg.connect(connection).close(), psycopg.OperationalError)
        with psycopg.connect(connection, autocommit=True) as setup:
            setup.execute(TABLES)
            version = f"postgres {setup.info.server_version // 10_000}"

        def counted() -> int:
            with psycopg.connect(connection) as asking:
                row = asking.execute("SELECT coalesce(sum(n), 0) FROM totals").fetchone()
            assert row is not None
            return int(row[0])

        yield Server(lambda: PostgresClient(connection), counted, process.pid, version, f"127.0.0.1:{port}")
    finally:
        process.send_signal(2)  # fast shutdown: its children go too
        try:
            process.wait(START_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- shared ----


def needs(module: str) -> str:
    """Empty, or what to do to have a client library."""
    return (
        ""
        if importlib.util.find_spec(module)
        else f"the Python client {module} is missing: pip install 'unimeter[bench]'"
    )


def until(try_: Callable[[], object], refused: type[Exception]) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            try_()
            return
        except refused:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


RIVALS: dict[str, tuple[Callable[[], str], Callable[[Settings, Path], Any]]] = {
    "unimeter": (lambda: "", unimeter),
    "redis": (why_no_redis, redis_server),
    "postgres": (why_no_postgres, postgres),
}
