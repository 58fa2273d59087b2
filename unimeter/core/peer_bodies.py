"""The maps that nodes send each other, and what each must say: whoever gets one need not look again.

A shape is a type of whole number (U64), a Python type, a list of one shape (any number of such values), a tuple of shapes
(exactly those, in order), or a dict of shapes by key; a key with "?" may be missing or None. Further keys are passed
over: they are of a later version.
"""

from __future__ import annotations

from typing import Any, Final

from unimeter.config import GROUPS_MAX
from unimeter.core import peer_wire
from unimeter.core.peer_wire import BadFrame, unpack_map
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes

U64: Final = range(2**64)
ID: Final = range(1, 2**64)
NODE: Final = range(1, 256)
GROUP: Final = range(GROUPS_MAX)

Shape = Any

FOUNDING: Shape = {
    "cluster": ID,
    "groups": range(1, GROUPS_MAX + 1),
    "replicas": range(1, 256),
    "limits": bytes,
    "nodes": [(NODE, str, str, ID)],
}
LEAD: Shape = (GROUP, U64, [ID], [ID], [ID], bool, U64, U64, U64, dict, U64)
SHAPES: dict[int, Shape] = {
    peer_wire.HELLO: {
        "v": U64,
        "node": NODE,
        "replica": U64,
        "cluster?": U64,
        "founding?": FOUNDING,
        "damaged?": bool,
        "client?": str,
        "peer?": str,
    },
    peer_wire.GOSSIP: {"catalog": U64, "leads": [LEAD], "unfit?": bool, "registry?": bytes, "coordinates?": U64},
    peer_wire.CALL: {"call": U64, "group": GROUP, "what": str, "body": dict},
    peer_wire.RETURN: {"call": U64, "answer?": dict, "refused?": (str, str, str)},
    peer_wire.DIGESTS: {"at": [(GROUP, U64)]},
    peer_wire.DIGESTS_SAID: {"said": [(GROUP, U64, U64)]},
    peer_wire.DIVERGED: {"group": GROUP, "index": U64, "mine": U64, "theirs": U64},
}
REGISTRY: Shape = {"version": U64, "replicas": range(1, 256), "nodes": [(NODE, str, str, U64, str)]}
CALLS: dict[str, Shape] = {
    "catalog": {"body": bytes},
    "follow": {"body": bytes},
    "alerts": {"since": U64, "limit": U64},
    "move": {"remove": U64, "add": U64},
    "transfer": {"to": U64},
}


def unpack(type_: int, payload: Bytes) -> dict[str, Any]:
    """Raises BadFrame."""
    body = unpack_map(payload)
    if not _fits(body, SHAPES[type_]):
        raise BadFrame(f"a frame of type 0x{type_:02x} that is not what it should be")
    if type_ == peer_wire.CALL and not _fits(body["body"], CALLS.get(body["what"], {})):
        raise BadFrame(f"a call of {body['what']!r} that is not what it should be")
    if body.get("registry") and not _fits(unpack_map(body["registry"]), REGISTRY):
        raise BadFrame("a registry that is none")
    founding = body.get("founding") if type_ == peer_wire.HELLO else None
    if founding and (
        len(founding["limits"]) != layout.LIMITS.size or not 1 <= founding["replicas"] <= len(founding["nodes"])
    ):
        raise BadFrame("a founding that is none")
    return body


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, range):
        return isinstance(value, int) and not isinstance(value, bool) and value in shape
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if isinstance(shape, tuple):
        return (
            isinstance(value, list)
            and len(value) == len(shape)
            and all(_fits(one, part) for one, part in zip(value, shape, strict=True))
        )
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_has(value, key, part) for key, part in shape.items())
    return isinstance(value, shape)


def _has(value: dict[str, Any], key: str, shape: Shape) -> bool:
    found: Any = value.get(key.removesuffix("?"))
    return found is None if key.endswith("?") and found is None else _fits(found, shape)
