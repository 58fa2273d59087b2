"""A node that starts gives way, and takes its full share again, when the session is its own; else nothing is touched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unimeter.io.real.courtesy import AUTOGROUP, NICE

PLAY = """
from unimeter.io.real.courtesy import AUTOGROUP, Courtesy
courtesy = Courtesy()
def niceness(): print(AUTOGROUP.read_text().split()[-1])
niceness()
courtesy.begin()
niceness()
while not courtesy.end(): pass
niceness()
assert courtesy.end()
"""


def play(own_session: bool, before: str = "") -> list[str]:
    command = [sys.executable, "-c", before + PLAY]
    done = subprocess.run(command, start_new_session=own_session, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
class TestWithAutogroups:
    def test_a_session_of_its_own_gives_way_until_told_otherwise(self) -> None:
        assert play(own_session=True) == ["0", str(NICE), "0"]

    def test_somebody_elses_session_is_left_alone(self) -> None:
        assert len(set(play(own_session=False))) == 1

    def test_a_niceness_that_somebody_chose_is_left_alone(self) -> None:
        chosen = "from pathlib import Path; Path('/proc/self/autogroup').write_text('3'); "
        assert play(own_session=True, before=chosen) == ["3", "3", "3"]


def test_without_autogroups_nothing_happens() -> None:
    missing = (
        "from pathlib import Path; import unimeter.io.real.courtesy as c; c.AUTOGROUP = Path('/proc/self/no-such'); "
    )
    text = PLAY.replace("import AUTOGROUP, Courtesy", "import Courtesy").replace(
        "def niceness(): ", "def niceness(): return; "
    )
    command = [sys.executable, "-c", missing + text]
    subprocess.run(command, start_new_session=True, check=True)
