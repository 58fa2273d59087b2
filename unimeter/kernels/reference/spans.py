"""A span: one request whose rows went to several groups, until it is answered.

Each part is a batch in the open entry of its group. Parts are answered in any order; each adds what it says, and
the last one sends the answer. So whatever a span adds up does not depend on the order:

    counts            sums
    last_offset       the greatest stamp of the parts' entries
    session verdict   the gravest: an error (they are the greater numbers), else DUPLICATE when any part was a retry
    first bad         the least event that was not stored for another reason than duplicate
    verdicts          per event; those of events that intake left out are known from the beginning

A part may also fail, or be let go without an answer: the span is over then. A failure is sent at once, and the
parts that are still to come are silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Summary
from unimeter.kernels.reference.apply import ReferenceApplied
from unimeter.kernels.reference.intake_request import Request

SPANS_MAX = lay.UM_SPANS_MAX
NOTHING = Summary(0, 0, 0, 0, lay.UM_NONE, 0, 0, 0, 0)


@dataclass
class Spans:
    """How many there are: they are bounded."""

    open: int = 0


@dataclass
class Span:
    table: Spans
    whole: Request  # as if it were not split
    parts: int = 0  # neither answered nor let go
    over: bool = False
    total: Summary = NOTHING
    bad: dict[int, int] = field(default_factory=dict)  # verdict by event, of those that were not stored

    def __post_init__(self) -> None:
        self.table.open += 1
        self.bad.update(dict.fromkeys(self.whole.unknown, lay.UM_V_UNKNOWN_METRIC))

    def let_go(self) -> None:
        """One part less."""
        self.parts -= 1
        self.table.open -= self.parts == 0

    def add(self, part: Request, summary: Summary | None, applied: ReferenceApplied | None) -> None:
        total = self.total
        self.total = total = total._replace(last_offset=max(total.last_offset, part.first_seq))
        if summary is None or applied is None:  # async: answered as ordered
            self.total = total._replace(stored=total.stored + part.row_count)
            return
        total = total._replace(
            stored=total.stored + summary.stored,
            duplicates=total.duplicates + summary.duplicates,
            conflicts=total.conflicts + summary.conflicts,
            refused=total.refused + summary.refused,
            session_verdict=max(total.session_verdict, summary.session_verdict),
        )
        if summary.first_bad < len(part.part_events):
            event = part.part_events[summary.first_bad]
            if event < total.first_bad:
                total = total._replace(first_bad=event, first_verdict=summary.first_verdict)
        self.total = total
        if not summary.session_verdict:
            verdicts = applied.verdicts[part.row_base : part.row_base + part.row_count]
            self.bad.update(
                (event, verdict) for event, verdict in zip(part.part_events, verdicts, strict=True) if verdict
            )
