"""Claims about the priority of a node that starts beside others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from unimeter.io.real.gentle import NICE_MAX, NICER, TASKS, Gentle, may_raise_to

BEFORE = os.getpriority(os.PRIO_PROCESS, 0)
LOWERED = min(BEFORE + NICER, NICE_MAX)
pytestmark = pytest.mark.skipif(
    not TASKS.is_dir() or not may_raise_to(BEFORE), reason="priorities cannot be raised again here"
)


def priorities() -> set[int]:
    found = set()
    for task in TASKS.iterdir():
        with suppress(ProcessLookupError):  # a thread that ends just now
            found.add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
    return found


def in_a_process_of_its_own(claim: str) -> None:
    """The tests' own process keeps its priority, whatever goes wrong."""
    code = f"from tests import test_gentle; test_gentle.{claim}()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def lowers_every_thread_and_raises_every_thread() -> None:
    over = threading.Event()
    old = threading.Thread(target=over.wait)
    old.start()
    gentle = Gentle(3600.0)
    gentle.begin()
    new = threading.Thread(target=over.wait)
    new.start()
    assert priorities() == {LOWERED}
    gentle.end()
    assert priorities() == {BEFORE}
    gentle.end()
    over.set()


def ends_by_itself() -> None:
    gentle = Gentle(0.01)
    gentle.begin()
    gentle.wait()
    assert priorities() == {BEFORE}


def end_without_a_beginning_changes_nothing() -> None:
    Gentle().end()
    assert priorities() == {BEFORE}


@pytest.mark.parametrize(
    "claim",
    ["lowers_every_thread_and_raises_every_thread", "ends_by_itself", "end_without_a_beginning_changes_nothing"],
)
def test_gentle(claim: str) -> None:
    in_a_process_of_its_own(claim)
