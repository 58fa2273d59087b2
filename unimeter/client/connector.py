"""Where to ask: a usable link to the node that leads a group, or to any node.

    leaders     one address per group, as the freshest word has it: a node's own claim, the answer or push of a node
                that was asked, or a redirect. A "" (no leader now) does not erase a guess: asking costs nothing.
    links       one per node; a node is recognised by its id, whatever address it was reached at
    dialling    one attempt per address at a time, bounded; while one hangs, the next address is tried too
    watch       one link is asked to push every change of the topology

A lone node is asked where it was found, whatever address it advertises: it may sit behind another name or port. Of a
cluster, advertised addresses are dialled; where they lead nowhere, the addresses that the application gave may still
reach the same nodes.

Nothing here decides whether to ask again: `exchange.py` does.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any

from unimeter.client.decode import decode_hello, decode_topology
from unimeter.client.link import Link, LinkLost, hello, parse_address
from unimeter.client.protocol import Response, Status, Type, decode_error, decode_map, encode_map, encode_request
from unimeter.client.results import ServerInfo
from unimeter.client.session import Backoff
from unimeter.client.topology import Topology
from unimeter.errors import ClientClosed, ConnectionFailed, InvalidArgument, ProtocolError, ServerError, UnimeterError
from unimeter.kernels.api import Kernels

ATTEMPT_SECONDS_MAX = 10.0  # for a connection with its handshake to the only address there is
ATTEMPT_OF_SEVERAL_SECONDS_MAX = 1.0  # to one of several
NEXT_ADDRESS_AFTER_SECONDS = 0.25  # without an answer, another address is tried as well
SHUN_SECONDS = 0.25  # an address that failed is not the first choice for so long
TOPOLOGY_ANSWER_SECONDS_MAX = 0.5
TOPOLOGY_AGAIN_SECONDS = 0.05  # between two questions for the topology
TOPOLOGY_DOUBTED_AGAIN_SECONDS = 0.25  # while an answer is overdue
REFRESH_SECONDS_MAX = 0.25  # for which a retry is held up


class Connector:
    def __init__(self, kernels: Kernels, addresses: Sequence[str], random: Random) -> None:
        if isinstance(addresses, str) or not addresses:
            raise InvalidArgument('addresses is a list like ["localhost:7001"]')
        for address in addresses:
            parse_address(address)
        self.closed = False
        self.info: ServerInfo | None = None  # of the last server that was reached
        self.topology: Topology | None = None  # the last that was told; its leaders may be older than self._leaders
        self.on_push: Callable[[Response], None] | None = None
        self._kernels = kernels
        self._seeds = list(addresses)
        self._random = random
        self._preferred = self._seeds[0]
        self._links: dict[str, Link] = {}
        self._leaders: dict[int, str] = {}
        self._node_at: dict[str, int] = {}  # address as advertised -> node id
        self._failures: dict[str, tuple[float, Exception]] = {}  # address -> loop time and reason of the last failure
        self._watch: Link | None = None
        self._asked_at = -TOPOLOGY_AGAIN_SECONDS
        self._tasks: dict[str, asyncio.Task[Any]] = {}  # what is under way, once each
        self._backoff = Backoff(random)
        self._request_ids = itertools.count(random.getrandbits(31))

    # ---- what is known ----

    @property
    def is_cluster(self) -> bool:
        """Is there more than one node to ask?"""
        return len(self._node_at) > 1

    @property
    def groups(self) -> int:
        return self.info.groups if self.info else 1

    def request_id(self) -> int:
        """A number that no other request of this client has (for the next four billion). From any thread."""
        return next(self._request_ids) % 0xFFFF_FFFF + 1

    def redirect(self, address: str, group: int | None) -> None:
        """The server at another address is the one to ask for this group."""
        if not address:
            return  # to nobody: there is no leader now
        try:
            parse_address(address)
        except InvalidArgument:
            raise ProtocolError(f"a redirect to something that is no address: {address!r}") from None
        if group is not None:
            self._leaders[group] = address
        if group is None or not self.is_cluster:
            self._preferred = address

    def is_elsewhere(self, link: Link, group: int | None) -> bool:
        """Does, as far as is known, another node than that of this link lead the group?"""
        leader = self._leaders.get(group, "") if group is not None else ""
        return bool(leader) and self.is_cluster and not self._is_at(link, leader)

    def _is_at(self, link: Link, address: str) -> bool:
        node = self._node_at.get(address)
        return link.address == address if node is None or link.info is None else link.info.node_id == node

    def _addresses(self) -> Iterator[str]:
        """All that are worth a try, those that failed last at the end."""
        known = list(dict.fromkeys([self._preferred, *self._seeds, *self._node_at]))
        return iter(sorted(known, key=lambda address: self._failures.get(address, (0.0,))[0]))

    def _learn(self, topology: Topology, link: Link, is_fresh: bool) -> None:
        """`is_fresh`: the node was asked now, or told by itself. Otherwise only gaps are filled, and what the node
        says of itself is believed: a handshake with a node that lags behind must not undo a redirect."""
        self.topology = topology
        self._node_at = {node.address: node.id for node in topology.nodes}
        for group, leader in enumerate(topology.leaders):
            if leader and (is_fresh or group not in self._leaders or self._is_at(link, leader)):
                self._leaders[group] = leader

    # ---- links ----

    async def link(self, until: float, group: int | None = None, fail_fast: bool = False) -> Link:
        """A usable link, to the group's leader if that is known and can be reached. Tries again until loop time
        `until`, or just every address once; then ConnectionFailed."""
        loop = asyncio.get_running_loop()
        while True:
            if self.closed:
                raise ClientClosed("the client is closed")
            target = self._target(group)
            found = self._found(target) or (self._other(target) if self._is_shunned(target) else None)
            if found is not None:
                return found
            work = self._once(f"race {target}", self._race(target))
            await asyncio.wait([work], timeout=max(0.0, until - loop.time()))
            if (work.done() and not work.cancelled() and work.result()) or self.closed:
                continue
            error = self._unreachable()
            if fail_fast or loop.time() >= until or (self.info is None and isinstance(error, ProtocolError)):
                raise error  # the last: something else than Unimeter listens there, waiting would not help

    def _target(self, group: int | None) -> str:
        """The address to ask: that of the group's leader, as far as it is known."""
        leader = self._leaders.get(group, "") if group is not None and self.is_cluster else ""
        return leader or self._preferred

    def reached_at(self, group: int | None) -> str | None:
        """Where the node that is to be asked is connected to now; None: nowhere. From any thread."""
        link = None if self.closed else self._found(self._target(group))
        return link.address if link is not None else None

    def _found(self, address: str) -> Link | None:
        """The link to the node at an address, if there is one."""
        direct = self._links.get(address)
        if direct is not None and direct.usable:
            return direct
        links = list(self._links.values())  # at once: other threads ask, too
        return next((link for link in links if link.usable and self._is_at(link, address)), None)

    def _other(self, target: str) -> Link | None:
        """A link to another node than the one that cannot be reached: it may know more. A lone node has no other."""
        if not self.is_cluster:
            return None
        return next((link for link in self._links.values() if link.usable and not self._is_at(link, target)), None)

    def _is_shunned(self, address: str) -> bool:
        failed_at = self._failures.get(address, (-SHUN_SECONDS,))[0]
        return asyncio.get_running_loop().time() < failed_at + SHUN_SECONDS or f"dial {address}" in self._tasks

    async def _race(self, target: str) -> bool:
        """Dial the target and, while it does not answer, one by one all others, unless there is a link to another.
        False, after a pause, if nobody can be reached."""
        waiting = [target, *(address for address in self._addresses() if address != target)]
        dialling: dict[asyncio.Task[Any], str] = {}
        while waiting or dialling:
            if waiting:
                address = waiting.pop(0)
                dialling[self._once(f"dial {address}", self._dial(address))] = address
            timeout = NEXT_ADDRESS_AFTER_SECONDS if waiting else None
            done, _ = await asyncio.wait(dialling, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            reached = [dialling.pop(task) for task in done if not task.cancelled() and task.result() is not None]
            for task in done:
                dialling.pop(task, None)
            if not reached and (other := self._other(target)) is not None:
                reached = [other.address]
                self._dial_seeds()
            if reached:
                if target == self._preferred:
                    self._preferred = reached[0]
                self._backoff = Backoff(self._random)
                return True
        await asyncio.sleep(self._backoff.wait_seconds())
        return False

    def _dial_seeds(self) -> None:
        """In the background: the node that cannot be reached may be known here by another address."""
        for seed in self._seeds:
            if self._found(seed) is None and not self._is_shunned(seed):
                self._once(f"dial {seed}", self._dial(seed))

    async def _dial(self, address: str) -> Link | None:
        """One attempt. What went wrong stands in `_failures`."""
        loop = asyncio.get_running_loop()
        alone = len(set(self._addresses())) == 1
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS_MAX if alone else ATTEMPT_OF_SEVERAL_SECONDS_MAX):
                link = await self._open(address)
        except (OSError, TimeoutError, LinkLost, UnimeterError) as error:
            reason = error.cause if isinstance(error, LinkLost) and error.cause else error
            known = self._failures.get(address)
            if isinstance(reason, TimeoutError) and known is not None:
                reason = known[1]  # running out of time says less than what went wrong before
            self._failures[address] = (loop.time(), reason)
            return None
        self._failures.pop(address, None)
        return link

    async def _open(self, address: str) -> Link:
        host, port = parse_address(address)
        loop = asyncio.get_running_loop()
        link = Link(self._kernels, address, self._pushed)
        await loop.create_connection(lambda: link, host, port)
        try:
            request_id = self.request_id()
            response = await link.start(request_id, hello(self._kernels, request_id))
            if response.status == Status.REDIRECT:
                raise ProtocolError("a redirect in answer to the handshake")
            if response.status != Status.OK:
                raise decode_error(response.payload)
            link.info = self.info = decode_hello(decode_map(response.payload))
        except BaseException as error:
            link.abort(error if isinstance(error, Exception) else ClientClosed("given up"))
            raise
        stale = self._links.get(address)
        if stale is not None and stale.alive:
            stale.abort(ConnectionFailed("replaced"))
        self._links[address] = link
        self._learn(link.info.topology, link, is_fresh=False)
        if self.is_cluster and (self._watch is None or not self._watch.usable):
            self._once("watch", self._ask_topology(link))
        return link

    def _unreachable(self) -> UnimeterError:
        failures = {address: error for address, (_, error) in self._failures.items()}
        for kind in (ProtocolError, ServerError):
            for failure in failures.values():
                if isinstance(failure, kind):
                    return failure
        reasons = "; ".join(f"{address}: {_reason(failure)}" for address, failure in failures.items())
        return ConnectionFailed(
            f"no server could be reached ({reasons or 'none answered yet'}); to start one: unimeter node"
        )

    # ---- the topology ----

    async def refresh(self, until: float, avoid: Link | None = None) -> None:
        """Ask a node who leads what, now, rather another one than `avoid`. Bounded, and done once for all who ask
        meanwhile."""
        now = asyncio.get_running_loop().time()
        if self.is_cluster and not self.closed and now >= self._asked_at + TOPOLOGY_AGAIN_SECONDS:
            await asyncio.wait([self._refreshing(avoid)], timeout=min(REFRESH_SECONDS_MAX, max(0.0, until - now)))

    def suspect(self, link: Link, group: int | None, is_silent: bool) -> bool:
        """A link owes an answer: is it to be given up, since another node leads the group by now? Finds out in the
        background what another node says and, if the link is silent, whether anybody is there."""
        if self.closed:
            return False
        if is_silent:
            link.probe(self.request_id())
        if group is None:
            return False
        if self.is_elsewhere(link, group):
            return True
        if asyncio.get_running_loop().time() >= self._asked_at + TOPOLOGY_DOUBTED_AGAIN_SECONDS:
            self._refreshing(link)
        return False

    def _refreshing(self, avoid: Link | None) -> asyncio.Task[Any]:
        self._asked_at = asyncio.get_running_loop().time()
        return self._once("refresh", self._refresh(avoid))

    async def _refresh(self, avoid: Link | None) -> None:
        links = [link for link in self._links.values() if link.usable and link is not avoid]
        self._random.shuffle(links)
        for link in links:
            if await self._ask_topology(link):
                return
        for address in self._addresses():
            if self._found(address) is None and not self._is_shunned(address):
                link = await self._once(f"dial {address}", self._dial(address))
                if link is not None and link is not avoid and await self._ask_topology(link):
                    return
        if avoid is not None and avoid.usable:
            await self._ask_topology(avoid)

    async def _ask_topology(self, link: Link) -> bool:
        """Also makes the link the watch, if there is none."""
        subscribe = self._watch is None or not self._watch.usable
        if subscribe:
            self._watch = link
        request_id = self.request_id()
        body = encode_map({"subscribe": True} if subscribe else {})
        try:
            asking = link.start(request_id, encode_request(self._kernels, Type.TOPOLOGY, request_id, body))
            async with asyncio.timeout(TOPOLOGY_ANSWER_SECONDS_MAX):
                response = await asking
            if response.status != Status.OK:
                raise decode_error(response.payload)
            self._learn(decode_topology(decode_map(response.payload)), link, is_fresh=True)
        except (TimeoutError, LinkLost, UnimeterError):
            if self._watch is link:
                self._watch = None
            return False
        return True

    def _pushed(self, link: Link, response: Response) -> None:
        if response.type != Type.TOPOLOGY_PUSH:
            if self.on_push:
                self.on_push(response)
            return
        try:
            self._learn(decode_topology(decode_map(response.payload)), link, is_fresh=True)
        except ProtocolError as error:
            link.abort(error)

    # ---- work in the background ----

    def _once(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start work, unless work of this name is under way: then that."""
        task = self._tasks.get(name)
        if task is not None:
            work.close()
            return task
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))
        return task

    def close(self) -> None:
        self.closed = True
        for link in self._links.values():
            link.abort(ClientClosed("the client was closed"))
        for task in list(self._tasks.values()):
            if not task.get_loop().is_closed():
                task.cancel()


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return "connection refused"  # the second: of several addresses of one host, each was
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
