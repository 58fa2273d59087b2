"""A lone v1 usage query, from its frame to the answer's (csrc/kernels/glance.c)."""

from __future__ import annotations

from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Bytes, QuerySpec
from unimeter.kernels.layout import UM_AGG_UNIQUE
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.query import ReferenceQuery
from unimeter.kernels.reference.state import State

_U64 = 2**64 - 1


def glance(state: State, newest: ReferenceCatalog, catalog: ReferenceCatalog, data: Bytes) -> bytes | None:
    if len(data) != wire.V1_REQUEST_HEADER.size + wire.V1_USAGE_QUERY.size:
        return None
    magic, version, kind, _, length, request_id = wire.V1_REQUEST_HEADER.unpack_from(data)
    if (magic, version, kind) != (wire.V1_MAGIC, wire.V1_VERSION, wire.V1_TYPE_USAGE_QUERY):
        return None
    account, start, end, code, filters = wire.V1_USAGE_QUERY.unpack_from(data, wire.V1_REQUEST_HEADER.size)
    metric = newest.find(code.split(b"\0")[0])
    if length != wire.V1_USAGE_QUERY.size or filters or metric < 0 or not 0 <= start <= end:
        return None
    if metric >= len(catalog.metrics):
        return None
    query = ReferenceQuery(state, catalog, 0, QuerySpec(account, metric, start, end, (), ()), 1)
    if query.needs_scan:
        return None
    (row,) = query.rows()
    count = row.unique if catalog.metrics[metric].aggregation == UM_AGG_UNIQUE else row.count
    of_some = (row.max & _U64, row.last_value & _U64, row.last_ts) if row.count else (0, 0, 0)
    body = wire.V1_AGGREGATE.pack(row.sum & _U64, row.sum >> 64 & _U64, count, *of_some, row.fired)
    return wire.V1_RESPONSE_HEADER.pack(wire.V1_STATUS_OK, request_id, len(body)) + body
