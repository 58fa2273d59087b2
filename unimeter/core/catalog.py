"""The catalog: what each metric means. Changed by log entries only, so every replica has the same.

A metric's id is its position and is never used again; deleting a metric hides it, creating one of the same code
afterwards starts at zero under a new id. What was reported never changes: the aggregation, the period and the
`recurring` flag of a metric are fixed; dimensions can be added (older events have the empty value there) and
thresholds replaced (a threshold with a new value is a new threshold: it takes a new slot and may fire again).

Every group must know every metric under the same id, and apply what happened to it in its own log's order. So group 0
orders the changes and numbers them (`version`); the other groups get each change as an entry of their own and apply it
when it is the next one, else not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgpack

from unimeter.core.refusal import Refused
from unimeter.kernels import layout
from unimeter.kernels.api import Catalog as KernelCatalog
from unimeter.kernels.api import Kernels

AGGREGATIONS: Final = ("count", "sum", "max", "latest", "count-unique")
PERIODS: Final = ("fixed", "month", "day", "week")
BILLING_DAY_MAX: Final = 28
THRESHOLD_NAME_BYTES_MAX: Final = 31
FIELD_BYTES_MAX: Final = 63
HINTS_MAX: Final = 8
VALUE_MIN, VALUE_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Threshold:
    name: str
    value: int
    recurring: bool = False

    def fields(self) -> dict[str, Any]:
        """What dataclasses.asdict makes of it, in the same order, without its copies."""
        return {"name": self.name, "value": self.value, "recurring": self.recurring}


@dataclass(frozen=True)
class Definition:
    """A metric as its creator wrote it. `field` and `hints` mean nothing to the node: v1 clients read them back."""

    code: str
    aggregation: int  # position in AGGREGATIONS
    recurring: bool = False
    dimensions: tuple[str, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    period: int = 1  # position in PERIODS
    billing_day: int = 1
    field: str = ""
    hints: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def fields(self) -> dict[str, Any]:
        """What dataclasses.asdict makes of it, in the same order, without its copies."""
        return {
            "code": self.code,
            "aggregation": self.aggregation,
            "recurring": self.recurring,
            "dimensions": self.dimensions,
            "thresholds": tuple(threshold.fields() for threshold in self.thresholds),
            "period": self.period,
            "billing_day": self.billing_day,
            "field": self.field,
            "hints": self.hints,
        }

    def validate(self) -> None:
        """Raises Refused(bad_request) with the rule that is broken."""
        _check_text("code", self.code, layout.UM_CODE_BYTES_MAX)
        if not 0 <= self.aggregation < len(AGGREGATIONS):
            raise _bad(f"aggregation {self.aggregation} is unknown", "use one of " + ", ".join(AGGREGATIONS))
        if self.recurring and AGGREGATIONS[self.aggregation] != "count-unique":
            raise _bad("only a count-unique metric can be recurring", "drop the recurring flag, or use count-unique")
        if len(self.dimensions) > layout.UM_DIMENSIONS_MAX:
            raise _bad(f"{len(self.dimensions)} dimensions are too many", f"declare at most {layout.UM_DIMENSIONS_MAX}")
        if len(dict.fromkeys(self.dimensions)) != len(self.dimensions):
            raise _bad("a dimension is declared twice", "name each property key once")
        for key in self.dimensions:
            _check_text("dimension", key, layout.UM_KEY_BYTES_MAX)
        if len(dict.fromkeys(t.name for t in self.thresholds)) != len(self.thresholds):
            raise _bad("two thresholds have one name", "give each threshold its own name")
        if len(self.thresholds) > layout.UM_THRESHOLDS_MAX:
            raise _bad("too many thresholds", f"use at most {layout.UM_THRESHOLDS_MAX}")
        for threshold in self.thresholds:
            _check_text("threshold name", threshold.name, THRESHOLD_NAME_BYTES_MAX)
            if not VALUE_MIN <= threshold.value <= VALUE_MAX:
                raise _bad(f"threshold {threshold.name} is beyond 64 bits", "use a value between -2^63 and 2^63-1")
        if not 0 <= self.period < len(PERIODS):
            raise _bad(f"period {self.period} is unknown", "use one of " + ", ".join(PERIODS))
        if not 1 <= self.billing_day <= BILLING_DAY_MAX:
            raise _bad(f"billing day {self.billing_day} is not in every month", f"use 1 to {BILLING_DAY_MAX}")
        if len(self.field.encode()) > FIELD_BYTES_MAX:
            raise _bad("the field name is too long", f"use at most {FIELD_BYTES_MAX} bytes")


@dataclass(frozen=True)
class Metric:
    id: int
    definition: Definition
    alive: bool = True
    slots: tuple[tuple[Threshold, bool], ...] = ()  # every threshold there ever was, with "in force"

    def threshold_name(self, slot: int) -> str:
        return self.slots[slot][0].name

    def dimension_number(self, key: str) -> int:
        try:
            return self.definition.dimensions.index(key)
        except ValueError:
            raise Refused(
                "unknown_dimension",
                f"metric {self.definition.code!r} has no dimension {key!r}",
                "it has: " + (", ".join(self.definition.dimensions) or "none") + "; add it with metric create",
            ) from None

    def pack(self) -> bytes:
        """As um_metric, for the kernels."""
        definition = self.definition
        return layout.pack_metric(
            id=self.id,
            alive=self.alive,
            aggregation=definition.aggregation,
            recurring=definition.recurring,
            period_type=definition.period,
            billing_day=definition.billing_day,
            code=definition.code.encode(),
            dimensions=[key.encode() for key in definition.dimensions],
            thresholds=[(threshold.value, threshold.recurring) if active else None for threshold, active in self.slots],
        )


@dataclass
class Catalog:
    """All metrics, and the kernels' view of them (rebuilt on each change)."""

    kernels: Kernels
    metrics: list[Metric] = field(default_factory=list)
    compiled: KernelCatalog = field(init=False)
    changes: list[bytes] = field(default_factory=list)  # bodies of the entries that changed something, oldest first
    _by_code: dict[str, Metric] = field(default_factory=dict)
    _packed: list[tuple[Metric, bytes]] = field(default_factory=list)  # as they were at the last change

    def __post_init__(self) -> None:
        self._rebuild()

    def _rebuild(self) -> None:
        self._by_code = {m.definition.code: m for m in self.metrics if m.alive}
        known = self._packed
        self._packed = [
            known[number] if number < len(known) and known[number][0] is metric else (metric, metric.pack())
            for number, metric in enumerate(self.metrics)
        ]
        self.compiled = self.kernels.catalog([packed for _, packed in self._packed])

    @property
    def version(self) -> int:
        """How many changes it has seen."""
        return len(self.changes)

    def get(self, code: str) -> Metric | None:
        return self._by_code.get(code)

    def alive(self) -> list[Metric]:
        return [metric for metric in self.metrics if metric.alive]

    def plan_put(self, wanted: Definition) -> Metric:
        """The metric that `wanted` would make of the present one, unchanged if it says nothing new. Raises Refused."""
        wanted.validate()
        present = self._by_code.get(wanted.code)
        if present is None:
            if len(self.metrics) >= layout.UM_METRICS_MAX:
                raise Refused(
                    "too_large",
                    f"{layout.UM_METRICS_MAX} metrics exist already",
                    "use dimensions, not metrics, to tell things apart",
                )
            return Metric(len(self.metrics), wanted, slots=tuple((t, True) for t in wanted.thresholds))
        old = present.definition
        for name in ("aggregation", "recurring", "period", "billing_day"):
            if getattr(old, name) != getattr(wanted, name):
                raise Refused(
                    "metric_conflict",
                    f"metric {wanted.code!r} exists with another {name.replace('_', ' ')}",
                    "numbers already reported never change: create a metric with another code",
                )
        missing = [key for key in old.dimensions if key not in wanted.dimensions]
        if missing:
            raise Refused(
                "metric_conflict",
                f"metric {wanted.code!r} already has the dimension {missing[0]!r}",
                "dimensions can be added, never removed: declare it again",
            )
        added = tuple(key for key in wanted.dimensions if key not in old.dimensions)
        dimensions = old.dimensions + added
        if len(dimensions) > layout.UM_DIMENSIONS_MAX:
            raise _bad("too many dimensions", f"a metric has at most {layout.UM_DIMENSIONS_MAX}")
        kept = [(threshold, active and threshold in wanted.thresholds) for threshold, active in present.slots]
        in_force = [threshold for threshold, active in kept if active]
        slots = (*kept, *((t, True) for t in wanted.thresholds if t not in in_force))
        if len(slots) > layout.UM_THRESHOLDS_MAX:
            raise Refused(
                "metric_conflict",
                f"the thresholds of {wanted.code!r} were changed too often",
                f"a metric has {layout.UM_THRESHOLDS_MAX} threshold slots in its life: create a metric with another code",
            )
        return replace(present, definition=replace(wanted, dimensions=dimensions), slots=slots)

    def put(self, wanted: Definition) -> tuple[Metric, bool]:
        """Create or update. Returns (metric, whether it was created now). Raises Refused and changes nothing."""
        planned = self.plan_put(wanted)
        created = planned.id == len(self.metrics)
        if created:
            self.metrics.append(planned)
        elif self.metrics[planned.id] == planned:
            return planned, False
        self.metrics[planned.id] = planned
        self._rebuild()
        return planned, created

    def delete(self, code: str) -> None:
        """Raises Refused(unknown_metric)."""
        metric = self._by_code.get(code)
        if metric is None:
            raise Refused("unknown_metric", f"there is no metric {code!r}", "list them: unimeter metric list")
        self.metrics[metric.id] = replace(metric, alive=False)
        self._rebuild()

    def dump(self) -> bytes:
        metrics = [[m.definition.fields(), m.alive, [[t.fields(), a] for t, a in m.slots]] for m in self.metrics]
        packed: bytes = msgpack.packb([metrics, self.changes])
        return packed

    def load(self, data: bytes) -> None:
        metrics, changes = msgpack.unpackb(data)
        self.metrics = [
            Metric(number, definition_from(fields), alive, tuple((Threshold(**t), active) for t, active in slots))
            for number, (fields, alive, slots) in enumerate(metrics)
        ]
        self.changes = list(changes)
        self._rebuild()


def definition_from(fields: dict[str, Any]) -> Definition:
    """The inverse of Definition.fields."""
    thresholds = tuple(Threshold(**threshold) for threshold in fields["thresholds"])
    hints = tuple((key, tuple(values)) for key, values in fields["hints"])
    return Definition(**{**fields, "dimensions": tuple(fields["dimensions"]), "thresholds": thresholds, "hints": hints})


def encode_put(definition: Definition) -> bytes:
    """The body of a catalog entry."""
    packed: bytes = msgpack.packb({"put": definition.fields()})
    return packed


def encode_delete(code: str) -> bytes:
    packed: bytes = msgpack.packb({"delete": code})
    return packed


def apply_entry(catalog: Catalog, body: bytes) -> tuple[Metric, bool] | None:
    """Apply a catalog entry's body. Raises Refused when the change is not allowed (and nothing changed)."""
    change = msgpack.unpackb(body)
    if change.get("version", catalog.version + 1) != catalog.version + 1:
        return None  # it is here already, or others before it are missing: it will come again
    before = catalog.compiled
    made = None
    if "put" in change:
        made = catalog.put(definition_from(change["put"]))
    else:
        catalog.delete(change["delete"])
    if catalog.compiled is not before:
        catalog.changes.append(body)
    return made


def check_change(body: bytes) -> None:
    """Raises Refused for what `apply_entry` could not take: nothing of that kind may get into a log."""
    try:
        change = msgpack.unpackb(body)
        if "put" in change:
            definition_from(change["put"]).validate()
        else:
            change["delete"].encode()
        numbered(body, 1)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise _bad(f"this is no change of the metrics: {error}", "upgrade the node that sent it") from None


def numbered(change: bytes, version: int) -> bytes:
    """The body of a change as it goes into the logs of the groups that follow."""
    packed: bytes = msgpack.packb({**msgpack.unpackb(change), "version": version})
    return packed


def _bad(message: str, fix: str) -> Refused:
    return Refused("bad_request", message, fix)


def _check_text(what: str, text: str, bytes_max: int) -> None:
    raw = text.encode()
    if not raw or len(raw) > bytes_max or b"\0" in raw:
        raise _bad(f"{what} {text!r} is not usable", f"use 1 to {bytes_max} bytes of UTF-8 without NUL")
