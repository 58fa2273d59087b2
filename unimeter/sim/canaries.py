"""Planted bugs: `unimeter sim --canary NAME` must fail, or the simulator is blind.

Each invariant names the canary that it must catch. A canary changes the simulated process, never the checks: it
wraps its disk, its network or the node itself (here), or the kernels that the node is given (canary_kernels.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unimeter.core.effects import Delete, Effect, Halt, Write
from unimeter.core.inputs import Input, Now, WriteDone
from unimeter.kernels.api import Bytes
from unimeter.sim import canary_kernels, canary_raft, wire2
from unimeter.sim.canary_raft import each_serving
from unimeter.sim.canary_registry import CANARIES, canary

if TYPE_CHECKING:
    from unimeter.sim.disk import DiskPort, Operation
    from unimeter.sim.host import Host
    from unimeter.sim.runner import Run

assert canary_kernels and canary_raft, "imported for the canaries that it registers"


def plant(name: str | None, run: Run) -> None:
    if name is not None:
        CANARIES[name](run)


# ---- the disk ----


@canary
def acknowledges_before_durable(run: Run) -> None:
    """A journal write is reported done as soon as it is submitted."""
    for host in run.cluster.hosts:
        _early(run, host)


def _early(run: Run, host: Host) -> None:
    submit = host.disk.submit

    def eager(port: DiskPort, effect: Operation) -> None:
        if isinstance(effect, Write) and not effect.bulk:
            submit(_Mute(port), Write(effect.op, effect.file, effect.offset, bytes(effect.data), effect.bulk))  # type: ignore[arg-type]
            run.world.after(0, port.complete, WriteDone(effect.op))
        else:
            submit(port, effect)

    crash = host.disk.crash

    def forgetful(kind: str) -> None:
        host.disk.pending = [pending for pending in host.disk.pending if not isinstance(pending.port, _Mute)]
        crash(kind)

    host.disk.submit = eager  # type: ignore[method-assign]
    host.disk.crash = forgetful  # type: ignore[method-assign]
    host.disk.sees_all = True  # as a page cache: what is not durable yet can be read all the same


class _Mute:
    def __init__(self, port: DiskPort) -> None:
        self.port = port

    def presume(self, _: object) -> None:
        return None

    def complete(self, *_: object) -> None:
        return None


@canary
def loses_a_completion(run: Run) -> None:
    """Every thirtieth journal write is never reported done."""
    for host in run.cluster.hosts:
        _lossy(host)


def _lossy(host: Host) -> None:
    submit, count = host.disk.submit, 0

    def forgetful(port: DiskPort, effect: Operation) -> None:
        nonlocal count
        if isinstance(effect, Write) and not effect.bulk:
            count += 1
            submit(_Mute(port) if count % 30 == 0 else port, effect)  # type: ignore[arg-type]
        else:
            submit(port, effect)

    host.disk.submit = forgetful  # type: ignore[method-assign]


@canary
def keeps_every_checkpoint(run: Run) -> None:
    """Old checkpoints are reported deleted and stay."""
    for host in run.cluster.hosts:
        _hoarding(run, host)


def _hoarding(run: Run, host: Host) -> None:
    submit = host.disk.submit

    def hoard(port: DiskPort, effect: Operation) -> None:
        if isinstance(effect, Delete):
            run.world.after(0, port.complete, WriteDone(effect.op))
        else:
            submit(port, effect)

    host.disk.submit = hoard  # type: ignore[method-assign]


# ---- the node and its connections ----


@canary
def stops_without_a_reason(run: Run) -> None:
    """A process stops after a hundred and fifty steps."""
    for host in run.cluster.hosts:
        _tired(host)


def _tired(host: Host) -> None:
    make = host.make_node

    def make_tired(setup: Any) -> Any:
        node = make(setup)
        step, count = node.step, 0

        def tired(now: Now, event: Input) -> list[Effect]:
            nonlocal count
            count += 1
            if count == 150:
                node.halted = True
                return [Halt("tired")]
            effects: list[Effect] = step(now, event)
            return effects

        node.step = tired
        return node

    host.make_node = make_tired


@canary
def forgets_how_far_it_was(run: Run) -> None:
    """Some answers name an earlier place in the log than they reflect."""
    count = 0

    def spoil(node: Any) -> None:
        for reads in node.serving.reads:
            reads.usage = _backward(reads.usage)

    def _backward(usage: Any) -> Any:
        def backward(spec: Any, answer: Any, fail: Any) -> Any:
            def lower(found_answer: Any) -> None:
                nonlocal count
                count += 1
                found_answer.index -= 5 * (count % 4 == 0)
                answer(found_answer)

            return usage(spec, lower, fail)

        return backward

    each_serving(run, spoil)


@canary
def forgets_a_definition(run: Run) -> None:
    """A restart from a checkpoint forgets what was changed last in one metric."""

    def spoil(node: Any) -> None:
        catalog = node.groups[0].catalog
        if catalog.metrics and node.recovered.checkpoints:
            last = catalog.metrics[0]
            catalog.metrics[0] = replace(last, definition=replace(last.definition, thresholds=()))
            catalog._rebuild()

    each_serving(run, spoil)


@canary
def pushes_get_lost(run: Run) -> None:
    """Every third push of alerts is lost."""
    send, count = run.network.send, 0

    def leaky(end: Any, data: Bytes) -> None:
        nonlocal count
        if end.link % 2 == 0 and len(data) > 6 and data[5] == wire2.ALERT_PUSH:
            count += 1
            if count % 3 == 0:
                return
        send(end, data)

    run.network.send = leaky  # type: ignore[method-assign]


@canary
def answers_twice(run: Run) -> None:
    """Every fiftieth send of a node is sent twice."""
    send, count = run.network.send, 0

    def stutter(end: Any, data: Bytes) -> None:
        nonlocal count
        send(end, data)
        if end.link % 2 == 0:  # the node's side
            count += 1
            if count % 50 == 0:
                send(end, data)

    run.network.send = stutter  # type: ignore[method-assign]
