"""What the node says about a single event is true: a duplicate or a conflict has its original in the log, and nothing
is refused for lack of room while there is room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unimeter.sim.events import Event, Stored
from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED, Ingest

STORED, DUPLICATE, CONFLICT, UNKNOWN_METRIC, CARDINALITY, FULL = range(6)


class Check(Invariant):
    sentence = "For all events that were not stored, the verdict given is always the one that the log justifies."
    canary = "calls_events_duplicates"

    def finished(self) -> None:
        ledger = self.run.ledger
        by_id = {(event.ident.account, event.ident.id): event for event in ledger.log if event.ident.id}
        by_ident: dict[Any, list[Stored]] = {}
        for event in ledger.log:
            by_ident.setdefault(event.ident, []).append(event)
        for request in ledger.ingests:
            told = request.result
            if request.state != ACKED or told is None or told.session_verdict or not request.sync:
                continue
            for index, verdict in told.exceptions:
                self._judge(request, request.events[index], verdict, by_id, by_ident)
            not_stored = told.duplicates + told.conflicts + told.refused
            if request.verdicts:
                self.check(
                    len(told.exceptions) == not_stored,
                    f"{request.describe()}: {not_stored} events not stored, verdicts on {len(told.exceptions)}",
                )
            if told.duplicates and not told.exceptions:
                sources = self._sources(request, by_id, by_ident)
                self.check(sources >= told.duplicates, f"{request.describe()}: {told.duplicates} duplicates of nothing")

    def _sources(self, request: Ingest, by_id: Mapping[Any, Stored], by_ident: Mapping[Any, list[Stored]]) -> int:
        """How many events of the request have an original outside of it, or earlier in it."""
        ledger = self.run.ledger
        # with several groups nobody is told which places a request took; one that was sent once took those that it is in
        alone = self.run.places.groups > 1 and request.attempts == 1
        seen: set[object] = set()
        sources = 0
        for event in request.events:
            key = (event.ident.account, event.ident.id)
            originals = by_ident.get(event.ident, [])
            if event.ident.id:
                originals = [by_id[key]] if key in by_id else []
            outside = any(not ledger.took(request, original.seq) for original in originals) and not (
                alone and ledger.by_ident.get(event.ident) == [request] and len(originals) < 2
            )
            sources += outside or (bool(event.ident.id) and key in seen)
            seen.add(key)
        return sources

    def _judge(
        self,
        request: Ingest,
        event: Event,
        verdict: int,
        by_id: Mapping[Any, Stored],
        by_ident: Mapping[Any, list[Stored]],
    ) -> None:
        original = by_id.get((event.ident.account, event.ident.id))
        deserved, why = True, ""
        if verdict == DUPLICATE:
            source = original if event.ident.id else by_ident.get(event.ident, [None])[0]
            deserved, why = source is not None and source.ident == event.ident, "duplicate"
        elif verdict == CONFLICT:
            deserved, why = original is not None and original.ident != event.ident, "conflict"
        elif verdict == CARDINALITY:
            deserved, why = self._cells(event) >= self.run.scenario.limits.cells_per_series_max, "cardinality"
        elif verdict == FULL:
            deserved, why = self.run.tables_filled, "full, but no table came near its limit"
        elif verdict == UNKNOWN_METRIC:
            metric = next((m for m in request.metrics if m.code == event.ident.metric), None)
            deserved = metric is None or not metric.known
            why = "unknown metric, but its creation had been answered"
        if why and not self.holds(deserved):
            self.fail(f"{request.describe()}: {event} was called {verdict} ({why}), original: {original}")

    def _cells(self, event: Event) -> int:
        metric = next(m for m in self.run.metrics if m.code == event.ident.metric)
        tuples = {
            tuple(dict(other.ident.properties).get(key, "") for key in metric.dimensions)
            for other in self.run.ledger.log
            if (other.ident.account, other.ident.metric) == (event.ident.account, event.ident.metric)
        }
        return len(tuples)
