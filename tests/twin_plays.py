"""Long random plays from a seed: what the field-by-field strategies are too slow and too tidy to reach.

Everything that must collide does: few accounts, a few hours around one instant, the same ids, frames that
are sent again, sessions that overtake themselves. Every play has its own taste (which metrics, how many v1
requests, how tight which table), so that each run of seeds is a different kind of day.
"""

from __future__ import annotations

from random import Random

from tests.twin_strategies import (
    BASE,
    CODES,
    DAY,
    HOUR,
    I64_MAX,
    I64_MIN,
    LATER,
    METRICS,
    ROOMY,
    U64_MAX,
    Event,
    Play,
    Request,
    Turn,
    v1_batch,
    v1_frame,
    v2_batch,
    v2_frame,
)
from unimeter.kernels.api import QuerySpec

ROOM = (1, 100_000, 2000, 500, 2000, 4000, 9000, 9000, 9000, 3000, 3000, 3000, 6, 3000, 9000, 9000, 3000)


class Author:
    """Writes one play; its taste is drawn first."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = Random(seed)
        self.accounts: list[int | bytes] = dice.sample(
            [1, 2, 258, U64_MAX, b"a", b"acme", b"z" * 128], dice.randint(1, 4)
        )
        self.codes = dice.sample(CODES, dice.randint(1, 4))
        self.values = dice.choice([range(-2, 5), range(3), (I64_MAX, I64_MIN, 1, -1), range(60)])
        self.v1_share = dice.choice([0.0, 0.2, 0.8])
        self.id_share = dice.choice([0.0, 0.3, 0.8])
        self.again_share = dice.choice([0.0, 0.2, 0.5])
        self.session_share = dice.choice([0.0, 0.5, 0.9])
        self.hours = dice.choice([1, 2, 6])
        self.far_share = dice.choice([0.0, 0.1, 0.5])
        self.texts = dice.sample([b"", b"eu", b"us", b"e", b"\xc3\xa9" * 20, b"asia", b"q" * 63], dice.randint(1, 5))
        self.number = 0
        self.sessions = [(1, 0), (0, 1), (7, 7), (9, U64_MAX)][: dice.randint(1, 4)]
        self.sent: list[bytes] = []  # ingest frames
        self.seen = [BASE]  # timestamps

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def instant(self) -> int:
        dice = self.dice
        if self.chance(0.2):
            return 0
        if self.chance(0.2):
            return dice.choice(self.seen)
        if self.chance(self.far_share):
            ts = BASE + dice.randint(-70, 70) * DAY + dice.choice([0, 1, HOUR])
        else:
            ts = BASE + dice.randint(-1, self.hours) * HOUR + dice.choice([0, 1, 7, HOUR - 1, dice.randrange(HOUR)])
        self.seen.append(ts)
        return ts

    def event(self, v1: bool) -> Event:
        dice = self.dice
        properties = {key: dice.choice(self.texts) for key in (b"plan", b"region", b"x") if self.chance(0.6)}
        numeric = [account for account in self.accounts if isinstance(account, int)] or [3]
        value = dice.choice(self.values)
        return Event(
            account=dice.choice(numeric) if v1 else dice.choice(self.accounts),
            metric=b"nosuch" if self.chance(0.05) else dice.choice(self.codes),
            value=value & I64_MAX if v1 else value,
            timestamp=self.instant(),
            operation=dice.choice([0, 1, 1, 2]),
            properties=tuple(sorted(properties.items())),
            id=b"" if v1 or not self.chance(self.id_share) else b"i%d" % dice.randrange(6),
        )

    def events(self, v1: bool) -> list[Event]:
        found = [self.event(v1) for _ in range(self.dice.choice([0, 1, 2, 5, 9]))]
        if found and self.chance(0.3):
            found += self.dice.choices(found, k=2)  # equal events in one request
        return found

    def frame(self) -> bytes:
        dice = self.dice
        number = dice.getrandbits(32)
        if self.sent and self.chance(self.again_share):
            return dice.choice(self.sent)
        if self.chance(self.v1_share):
            frame = v1_frame(dice.choice([0, 1]), number, v1_batch(self.events(True)))
        elif self.chance(self.session_share):
            frame = self.session_frame(number)
        else:
            frame = v2_frame(2, number, v2_batch(self.events(False)), dice.randrange(4))
        self.sent.append(frame)
        return frame

    def session_frame(self, request_id: int) -> bytes:
        dice = self.dice
        session = dice.choice(self.sessions)
        if self.chance(0.25):
            return v2_frame(2, request_id, v2_batch([], session, 0, dice.randrange(3), 1), dice.randrange(4))
        self.number += dice.choice([0, 1, 1, 1, 63, 64])
        number = max(1, self.number - dice.choice([0, 0, 0, 1, 64]))
        settled = dice.choice([0, 0, max(0, number - 3), number])
        return v2_frame(2, request_id, v2_batch(self.events(False), session, number, settled), dice.randrange(4))

    def limits(self) -> tuple[int, ...]:
        dice = self.dice
        records = list(ROOM)
        for region in dice.sample(range(1, 17), dice.choice([0, 0, 1, 1, 2, 4])):
            records[region] = dice.randint(1, ROOMY[region] // dice.choice([1, 4, 16]) + 1)
        return tuple(records)

    def play(self, turns: int) -> Play:
        dice = self.dice
        script = [
            Turn(
                [Request(dice.randint(1, 3), self.frame()) for _ in range(dice.randint(1, 5))],
                dice.choice([1, 1, 1000, HOUR // 3, 20 * DAY]),
            )
            for _ in range(turns)
        ]
        return Play(
            self.limits(), dice.choice([4, 20, 3000]), dice.choice([1, 3, 1000, 1000]), dice.choice([0, HOUR]), script
        )

    # ---- questions ----

    def edge(self) -> int:
        dice = self.dice
        ts = dice.choice(self.seen)
        return dice.choice([ts, ts, ts + 1, ts - 1, ts - ts % HOUR, ts + dice.randint(-2, 2) * HOUR, 0, I64_MAX])

    def spec(self) -> QuerySpec:
        dice = self.dice
        number = CODES.index(dice.choice(self.codes))
        dimensions = [*range(len(dice.choice([METRICS, LATER])[number].dimensions))]
        group_by = dice.sample(dimensions, dice.randint(0, len(dimensions)))
        filters = tuple(
            (dimension, tuple(dice.sample([*self.texts, b"nowhere"], dice.randint(0, len(self.texts)))))
            for dimension in dimensions
            if self.chance(0.3)
        )
        start, end = self.edge(), self.edge()
        if self.chance(0.3):  # both in one hour
            end = start - start % HOUR + dice.choice([1, 7, 8, HOUR - 1, dice.randrange(HOUR)])
        if self.chance(0.9):
            start, end = min(start, end), max(start, end)
        return QuerySpec(dice.choice(self.accounts), number, start, end, tuple(group_by), filters)
