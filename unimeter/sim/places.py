"""What every client knows of the cluster: the founders' addresses, and which group an account belongs to.

    account -> partition (of 256) -> group = partition mod number of groups

`place` makes one number of a group and a sequence number in its log. Places of one group are ordered as its log is;
places of different groups never compare equal, and nothing should be concluded from their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from unimeter.config import PARTITIONS
from unimeter.kernels.api import Kernels
from unimeter.sim.events import Account

GROUP_SHIFT: Final = 48


def place(group: int, seq: int) -> int:
    return group << GROUP_SHIFT | seq


def seq_of(where: int) -> int:
    return where & ((1 << GROUP_SHIFT) - 1)


def group_at(where: int) -> int:
    return where >> GROUP_SHIFT


@dataclass
class Places:
    addresses: list[str]
    groups: int
    kernels: Kernels
    _known: dict[Account, int] = field(default_factory=dict)

    def group_of(self, account: Account) -> int:
        if self.groups == 1:
            return 0
        group = self._known.get(account)
        if group is None:
            number = account if isinstance(account, int) else self.kernels.hash64(account.encode())
            group = self._known[account] = number % PARTITIONS % self.groups
        return group
