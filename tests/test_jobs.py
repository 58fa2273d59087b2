"""A job (kernels.api.Job) does what apply does to its entries one by one, whoever does the work; until it is finished
the state is nobody's.

UNIMETER_EXAMPLES=N runs N times as many examples.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import (
    CALLED,
    PATIENCE_SECONDS,
    ROOM,
    Told,
    catalog_of,
    in_another_thread,
    left,
    left_of_work,
    log,
    told,
)
from tests.test_twins import examples, roomy
from tests.twin_plays import Author
from tests.twin_strategies import BASE, Event, Play, Request, plays, v2_batch, v2_frame
from tests.twins import NATIVE, REFERENCE, Twins, both, image_piece, limits_of, same
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.api import Catalog, GroupState, Kernels, QuerySpec
from unimeter.kernels.deferred import NO_CALL

TWINS = pytest.mark.parametrize("kernels", both(), ids=["native", "reference"])


class Listener(Twins):
    """Writes down what apply says of every entry, one by one: what a job must say too."""

    def __init__(self, play: Play) -> None:
        super().__init__(play)
        self.told: list[list[Told]] = [[], []]

    def apply(self, entry: bytes) -> list[Any]:
        applied = super().apply(entry)
        for twin in (NATIVE, REFERENCE):
            self.told[twin].append(told(applied[twin]))
        return applied


# ---- the same as one by one ----


def check_jobs(twins: Listener, play: Play, entries: list[bytes], cuts: set[int], worked: bool) -> None:
    """The log once more, in jobs that begin at the cuts: the same is said, and the same is left."""
    assert twins.told[NATIVE] == twins.told[REFERENCE]
    bounds = sorted({0, len(entries), *cuts})
    for kernels, catalog, before in zip(twins.kernels, twins.catalogs, twins.states, strict=True):
        state = kernels.state(limits_of(play))
        heard: list[Told] = []
        for first, end in pairwise(bounds):
            job = state.begin(catalog, entries[first:end])
            if worked:
                in_another_thread(job)
            heard += [told(applied) for applied in job.finish()]
        assert heard == twins.told[NATIVE]
        assert left(state) == left(before)
        assert state.check(catalog) == 0


@examples(60)
@given(plays(), st.data())
def test_a_job_says_and_leaves_what_its_entries_do_one_by_one(play: Play, data: st.DataObject) -> None:
    twins = Listener(play)
    entries = [twins.turn(turn) for turn in play.turns]
    cuts = data.draw(st.sets(st.integers(0, len(entries)), max_size=3))
    check_jobs(twins, play, entries, cuts, worked=data.draw(st.booleans()))


@examples(30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.booleans())
def test_long_plays_in_jobs_are_equal_to_long_plays(seed: int, turn_count: int, worked: bool) -> None:
    author = Author(seed)
    play = author.play(turn_count)
    twins = Listener(play)
    entries = [twins.turn(turn) for turn in play.turns]
    cuts = {author.dice.randrange(len(entries) + 1) for _ in range(2)}
    check_jobs(twins, play, entries, cuts, worked)


@TWINS
def test_clients_are_answered_from_a_job_as_from_apply(kernels: Kernels) -> None:
    """Two entries, each with a request that was stored, one refused in part and one sent again."""
    catalog, play = catalog_of(kernels), roomy([])

    def requests(n: int) -> list[Request]:
        good = [Event(1, b"calls", 1, BASE + n + k, id=b"%d/%d" % (n, k)) for k in range(3)]
        mixed = [Event(2, b"users", 5, BASE), Event(2, b"gone", 1, BASE), Event(b"acme", b"plain", 7, BASE)]
        frames = [v2_frame(2, 10 * n + k, v2_batch(events)) for k, events in enumerate((good, mixed, good))]
        return [Request(link, frame) for link, frame in zip((1, 2, 2), frames, strict=True)]

    def sealed() -> list[tuple[Any, bytes]]:
        made = []
        for n in range(2):
            intake = kernels.intake(0, 1 << 20, 100)
            for request in requests(n):
                frames = kernels.frame_scan(request.frame, 1 << 20)
                intake.take(catalog, request.frame, frames, 0, request.link)
            rows = intake.row_count
            made.append((intake, bytes(intake.seal(0, n + 1, 1, BASE + n, 1 + n * rows))))
        return made

    plain, aside = kernels.state(limits_of(play)), kernels.state(limits_of(play))
    expected = [intake.answers(plain.apply(catalog, entry)) for intake, entry in sealed()]
    waiting = sealed()
    job = aside.begin(catalog, [entry for _, entry in waiting])
    answers = [intake.answers(applied) for (intake, _), applied in zip(waiting, job.finish(), strict=True)]
    assert answers == expected
    assert [[reply.link for reply in replies] for replies in answers] == [[1, 2], [1, 2]]


@TWINS
def test_a_job_of_nothing_says_nothing_and_leaves_the_state_usable(kernels: Kernels) -> None:
    catalog = catalog_of(kernels)
    state = kernels.state(ROOM)
    before = left(state)
    assert list(state.begin(catalog, []).finish()) == []
    assert left(state) == before
    state.apply(catalog, log(kernels, catalog, 1, 3)[0])


# ---- who does the work, and when ----


def test_of_the_twin_without_threads_nothing_is_done_before_it_is_finished() -> None:
    kernels = load("reference")
    catalog = catalog_of(kernels)
    state = kernels.state(ROOM)
    job = state.begin(catalog, log(kernels, catalog, 3, 5))
    assert job.call == NO_CALL
    assert state.meta().applied_index == 0
    finishing = job.finish()
    for index in (1, 2, 3):
        next(finishing)
        assert state.meta().applied_index == index
    assert next(finishing, None) is None


def test_what_call_names_does_the_work_and_finish_only_collects() -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    entries = log(kernels, catalog, 4, 100)
    plain, state = kernels.state(ROOM), kernels.state(ROOM)
    expected = [told(plain.apply(catalog, entry)) for entry in entries]
    job = state.begin(catalog, entries)
    assert state.meta().applied_index == 0, "nobody has begun"
    in_another_thread(job)
    assert left_of_work(state) == left_of_work(plain), "the thread did everything"
    in_another_thread(job)  # once is enough
    assert [told(applied) for applied in job.finish()] == expected
    assert left(state) == left(plain)
    in_another_thread(job)  # a thread that is late does nothing
    assert left(state) == left(plain)


def test_whoever_finishes_waits_for_the_thread_that_is_at_it() -> None:
    """The thread is inside the function when finish begins: it holds the interpreter until it is."""
    kernels = load("native")
    catalog = catalog_of(kernels)
    entries = log(kernels, catalog, 8, 10_000)
    plain = kernels.state(ROOM)
    expected = [told(plain.apply(catalog, entry)) for entry in entries]
    for _ in range(5):
        state = kernels.state(ROOM)
        job = state.begin(catalog, entries)
        going = threading.Event()
        function, argument = job.call

        def work(function: int = function, argument: int = argument, going: threading.Event = going) -> None:
            call = CALLED(function)
            going.set()
            call(argument)

        thread = threading.Thread(target=work)
        thread.start()
        assert going.wait(PATIENCE_SECONDS)
        assert [told(applied) for applied in job.finish()] == expected
        thread.join(PATIENCE_SECONDS)
        assert left(state) == left(plain)


def test_entries_stay_where_they_are_while_a_job_may_read_them() -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    entry = bytearray(log(kernels, catalog, 1, 3)[0])
    job = kernels.state(ROOM).begin(catalog, [entry])
    with pytest.raises(BufferError):
        entry.append(0)
    assert [applied.row_count for applied in job.finish()] == [3]


def test_a_state_and_a_catalog_that_nobody_else_has_live_as_long_as_the_job() -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    state = kernels.state(ROOM)
    job = state.begin(catalog, log(kernels, catalog, 2, 3))
    held: list[Callable[[], object]] = [weakref.ref(state), weakref.ref(catalog)]
    del state, catalog
    gc.collect()
    assert None not in [each() for each in held]
    in_another_thread(job)
    assert [applied.row_count for applied in job.finish()] == [3, 3]


# ---- meanwhile the state is nobody's ----

SPEC = QuerySpec(1, 7, 0, 2**62, (), ())
USES: dict[str, Callable[[GroupState, Catalog, bytes], object]] = {
    "apply": lambda state, catalog, entry: state.apply(catalog, entry),
    "begin": lambda state, catalog, entry: state.begin(catalog, [entry]),
    "query": lambda state, catalog, _: state.query(catalog, SPEC, 10).rows(),
    "alerts": lambda state, *_: state.alerts(0, None, 10),
    "events": lambda state, *_: state.events(1, 0, 2**62, 0, 10, None),
    "checkpoint_begin": lambda state, *_: state.checkpoint_begin(),
}


@pytest.mark.parametrize("worked", [False, True], ids=["left alone", "worked on"])
@pytest.mark.parametrize("use", USES)
def test_a_state_with_an_open_job_refuses_to_be_used(use: str, worked: bool) -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    first, second, third = log(kernels, catalog, 3, 4)
    state = kernels.state(ROOM)
    state.apply(catalog, first)
    job = state.begin(catalog, [second])
    if worked:  # even then: only finish() takes over what another thread has written
        in_another_thread(job)
    with pytest.raises(AssertionError, match="finish the job before"):
        USES[use](state, catalog, third)
    assert len(list(job.finish())) == 1
    USES[use](state, catalog, third)
    assert state.meta().applied_index == (3 if use == "apply" else 2)


@pytest.mark.parametrize("step", ["checkpoint_read", "checkpoint_end"])
def test_an_image_under_way_waits_for_the_job_and_is_that_of_the_moment_it_began(step: str) -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    entries = log(kernels, catalog, 2, 500)
    state, other = kernels.state(ROOM), kernels.state(ROOM)
    for each in (state, other):
        each.apply(catalog, entries[0])
    length = other.checkpoint_begin()
    expected = image_piece(other, length)
    assert state.checkpoint_begin() == length
    image = image_piece(state, 100)
    job = state.begin(catalog, entries[1:])
    in_another_thread(job)
    with pytest.raises(AssertionError, match="finish the job before"):
        image_piece(state, 100) if step == "checkpoint_read" else state.checkpoint_end()
    assert len(list(job.finish())) == 1
    image += image_piece(state, length)
    state.checkpoint_end()
    assert image == expected


def test_an_entry_that_is_not_of_events_is_no_job_and_leaves_the_state_usable() -> None:
    kernels = load("native")
    catalog = catalog_of(kernels)
    state = kernels.state(ROOM)
    noop = kernels.entry(lay.UM_ENTRY_NOOP, 0, 1, 1, BASE, 1, b"")
    with pytest.raises(AssertionError, match="only entries of events"):
        state.begin(catalog, [noop])
    state.apply(catalog, noop)
    assert state.meta().applied_index == 1


def test_both_twins_say_the_same_of_a_job() -> None:
    kernels = both()
    catalogs = [catalog_of(each) for each in kernels]
    entries = same([log(each, catalog, 5, 30) for each, catalog in zip(kernels, catalogs, strict=True)])
    states = [each.state(ROOM) for each in kernels]
    pairs = zip(states, catalogs, strict=True)
    same([[told(applied) for applied in state.begin(catalog, entries).finish()] for state, catalog in pairs])
    same([left(state) for state in states])
