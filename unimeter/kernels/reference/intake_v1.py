"""A v1 ingest payload becomes rows.

    event_count u32, prop_count u32, event_count x 96 B, prop_count x 96 B (properties stand in event order)

What is refused, and how hard; the first fault in the order of the bytes decides:

    MALFORMED (closes the link)   lengths that do not add up; a code that is empty or has no NUL; operation above 2;
                                  more than 16 properties, or more than there are; a key that is empty, has no NUL
                                  or stands twice in its event; a value without a NUL; properties left over
    BAD_ROW, VALUE_RANGE          a timestamp below 0, a value above 2^63 - 1
    TOO_MANY_EVENTS               event_count above the limit, when the lengths add up

Bytes behind a text's NUL and pad bytes are not looked at. Events of unknown metrics are checked like all
others, then noted and left out.
"""

from __future__ import annotations

import struct

from unimeter.kernels import layout as lay
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.intake_request import Taken
from unimeter.kernels.reference.records import I64_MAX

_HEAD = struct.Struct("<II")
_EVENT = struct.Struct("<64sQqQBB6x")
_PROPERTY = struct.Struct("<32s64s")


def _text(field: bytes) -> bytes | None:
    """The text of a NUL-terminated field, None without a NUL."""
    text, nul, _ = field.partition(b"\0")
    return text if nul else None


def _properties(wire: bytes) -> list[tuple[bytes, bytes]] | None:
    """Sorted by key; None when they are malformed."""
    found: dict[bytes, bytes] = {}
    for key_field, value_field in _PROPERTY.iter_unpack(wire):
        key, value = _text(key_field), _text(value_field)
        if not key or value is None or key in found:
            return None
        found[key] = value
    return sorted(found.items())


def take_v1(catalog: ReferenceCatalog, payload: bytes, events_max: int, taken: Taken) -> Taken:
    if len(payload) < _HEAD.size:
        return taken.refuse(lay.UM_REQ_MALFORMED)
    event_count, props_left = _HEAD.unpack_from(payload)
    props_at = _HEAD.size + event_count * _EVENT.size
    if len(payload) != props_at + props_left * _PROPERTY.size:
        return taken.refuse(lay.UM_REQ_MALFORMED)
    taken.events = event_count
    if event_count > events_max:
        return taken.refuse(lay.UM_REQ_TOO_MANY_EVENTS)
    for index in range(event_count):
        code_field, account, timestamp_ns, value, operation, prop_count = _EVENT.unpack_from(
            payload, _HEAD.size + index * _EVENT.size
        )
        code = _text(code_field)
        if not code or operation > lay.UM_OP_REMOVE or prop_count > min(lay.UM_PROPERTIES_MAX, props_left):
            return taken.refuse(lay.UM_REQ_MALFORMED, index)
        properties = _properties(payload[props_at : props_at + prop_count * _PROPERTY.size])
        if properties is None:
            return taken.refuse(lay.UM_REQ_MALFORMED, index)
        props_at += prop_count * _PROPERTY.size
        props_left -= prop_count
        if timestamp_ns < 0:
            return taken.refuse(lay.UM_REQ_BAD_ROW, index)
        if value > I64_MAX:
            return taken.refuse(lay.UM_REQ_VALUE_RANGE, index)
        metric = catalog.find(code)
        if metric < 0:
            taken.unknown.append(index)
        else:
            taken.rows.append(lay.encode_row(account, timestamp_ns, value, metric, operation, properties=properties))
    if props_left:
        return taken.refuse(lay.UM_REQ_MALFORMED)
    taken.batch = taken.batch._replace(flags=lay.UM_BATCH_V1)
    return taken
