"""Unimeter: records every usage event durably, counts each exactly once, answers billing questions.

    from unimeter import AsyncClient, Event, MetricSchema, AggType, current_month

Names are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unimeter import compiled as _compiled

__version__ = "0.2.0"

if TYPE_CHECKING:
    from unimeter.client.async_client import AsyncClient as AsyncClient
    from unimeter.client.client import Client as Client
    from unimeter.client.periods import current_day as current_day
    from unimeter.client.periods import current_month as current_month
    from unimeter.client.periods import current_week as current_week
    from unimeter.client.results import Alert as Alert
    from unimeter.client.results import IngestResult as IngestResult
    from unimeter.client.results import Metric as Metric
    from unimeter.client.results import Refusal as Refusal
    from unimeter.client.results import StoredEvent as StoredEvent
    from unimeter.client.results import Usage as Usage
    from unimeter.client.results import UsageRow as UsageRow
    from unimeter.client.results import Value as Value
    from unimeter.client.results import Verdict as Verdict
    from unimeter.client.topology import NodeAddress as NodeAddress
    from unimeter.client.topology import Topology as Topology
    from unimeter.client.values import AggType as AggType
    from unimeter.client.values import Event as Event
    from unimeter.client.values import MetricSchema as MetricSchema
    from unimeter.client.values import Period as Period
    from unimeter.client.values import PeriodType as PeriodType
    from unimeter.client.values import Threshold as Threshold
    from unimeter.client.values import scale as scale
    from unimeter.client.values import unscale as unscale
    from unimeter.errors import EventsRefused as EventsRefused
    from unimeter.errors import IngestIncomplete as IngestIncomplete
    from unimeter.errors import ServerError as ServerError
    from unimeter.errors import SessionLost as SessionLost
    from unimeter.errors import UnimeterError as UnimeterError

_HOMES = {
    "unimeter.client.async_client": ("AsyncClient",),
    "unimeter.client.client": ("Client",),
    "unimeter.client.periods": ("current_day", "current_month", "current_week"),
    "unimeter.client.results": (
        "Alert", "IngestResult", "Metric", "Refusal", "StoredEvent", "Usage", "UsageRow", "Value", "Verdict",
    ),
    "unimeter.client.topology": ("NodeAddress", "Topology"),
    "unimeter.client.values": (
        "AggType", "Event", "MetricSchema", "Period", "PeriodType", "Threshold", "scale", "unscale",
    ),
    "unimeter.errors": (
        "BadRequest", "ClientClosed", "ConnectionFailed", "DiskFull", "EventsRefused", "IngestError",
        "IngestIncomplete", "InternalError", "InvalidArgument", "LeaderChanged", "MetricConflict", "NoLeader",
        "NotMember", "OutcomeUnknown", "Overloaded", "ProtocolError", "RequestTimeout", "ServerError", "SessionLost",
        "Starting", "TooLarge", "Unavailable", "UnimeterError", "UnknownDimension", "UnknownMetric", "Unsupported",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]

_compiled.install()  # before any other module of ours is looked for


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
