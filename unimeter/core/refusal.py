"""A request that the node will not serve, said so that the caller knows what to do."""

from __future__ import annotations


class Refused(Exception):
    """`code` is stable and meant for programs; `message` says what is wrong, `fix` what to do about it."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(f"{message}: {fix}")
        self.code = code
        self.message = message
        self.fix = fix


class Elsewhere(Refused):
    """Another node leads the group that the request is for: ask there."""

    def __init__(self, group: int, address: str) -> None:
        super().__init__("redirect", f"group {group} is led by {address}", "ask there")
        self.group = group
        self.address = address


def no_leader(group: int) -> Refused:
    return Refused("no_leader", f"group {group} has no leader now", "send the same again shortly")


def unknown_metric(code: str) -> Refused:
    return Refused(
        "unknown_metric", f"there is no metric {code!r}", f"create it first: unimeter metric create {code} --agg sum"
    )
