"""A group's state: seventeen regions of records, and the dictionaries that find them.

What is interned or created stays; records are only ever appended or changed in place (the two fingerprint
generations, which are emptied in turn, are the exception). The number of a record is its place in its region,
so a state is completely described by its packed regions, and `image` is just those.

`room(region, n)` is the one question about limits; whoever creates records has asked it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized

from unimeter.kernels.api import Limits
from unimeter.kernels.reference.checksum import hash64
from unimeter.kernels.reference.records import (
    NONE,
    Alert,
    Bucket,
    Cell,
    Identity,
    Member,
    Meta,
    Period,
    PeriodMember,
    Series,
    Session,
    Skip,
    Text,
)


class State:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.meta = Meta()
        self.heap = bytearray()
        self.values: list[Text] = []
        self.accounts: list[Text] = []
        self.series: list[Series] = []
        self.cells: list[Cell] = []
        self.dims: list[int] = []
        self.buckets: list[Bucket] = []
        self.members: list[Member] = []
        self.fingerprints: tuple[dict[int, None], dict[int, None]] = ({}, {})  # in order of arrival
        self.ids: list[Identity] = []
        self.sessions: list[Session] = []
        self.periods: list[Period] = []
        self.period_members: list[PeriodMember] = []
        self.alerts: list[Alert] = []
        self.skips: list[Skip] = []

        self.value_numbers: dict[bytes, int] = {}
        self.account_numbers: dict[bytes, int] = {}
        self.series_numbers: dict[tuple[int, int, int], int] = {}  # account, text, metric
        self.cell_numbers: dict[tuple[int, tuple[int, ...]], int] = {}  # series, dims
        self.bucket_numbers: dict[tuple[int, int], int] = {}  # cell, hour
        self.member_numbers: dict[tuple[int, int], int] = {}  # bucket, member
        self.id_numbers: dict[int, int] = {}
        self.session_numbers: dict[tuple[int, int], int] = {}
        self.period_member_numbers: dict[tuple[int, int], int] = {}  # period, member
        self._pools: tuple[Sized, ...] = (
            (self.meta,),
            self.heap,
            self.values,
            self.accounts,
            self.series,
            self.cells,
            self.dims,
            self.buckets,
            self.members,
            *self.fingerprints,
            self.ids,
            self.sessions,
            self.periods,
            self.period_members,
            self.alerts,
            self.skips,
        )
        self.intern_value(b"")  # record 0 is the empty value

    # ---- limits ----

    def counts(self) -> tuple[int, ...]:
        """Records in use per region, in the order of UM_R_*."""
        return tuple(len(pool) for pool in self._pools)

    def room(self, region: int, wanted: int = 1) -> bool:
        """Nothing wanted always fits, also where a lowered limit leaves more records than it allows."""
        return wanted == 0 or len(self._pools[region]) + wanted <= self.limits.records_max[region]

    # ---- chains ----

    def cells_of(self, series: int) -> Iterator[Cell]:
        """In order of creation."""
        number = self.series[series].first_cell
        while number != NONE:
            yield self.cells[number]
            number = self.cells[number].next

    def buckets_of(self, cell: Cell) -> Iterator[Bucket]:
        """Newest-created first."""
        number = cell.first_bucket
        while number != NONE:
            yield self.buckets[number]
            number = self.buckets[number].next

    def members_of(self, bucket: Bucket) -> Iterator[Member]:
        """Newest-created first."""
        number = bucket.first_member
        while number != NONE:
            yield self.members[number]
            number = self.members[number].next

    def periods_of(self, series: int) -> Iterator[Period]:
        """Newest-created first."""
        number = self.series[series].first_period
        while number != NONE:
            yield self.periods[number]
            number = self.periods[number].next

    # ---- interning ----

    def _text(self, text: bytes) -> Text:
        record = Text(len(self.heap), hash64(text), text)
        self.heap += text
        return record

    def intern_value(self, text: bytes) -> int:
        number = self.value_numbers.get(text)
        if number is None:
            number = self.value_numbers[text] = len(self.values)
            self.values.append(self._text(text))
        return number

    def intern_account(self, key: int | bytes) -> tuple[int, int]:
        """(account, text) as a series names it."""
        if isinstance(key, int):
            return key, 0
        number = self.account_numbers.get(key)
        if number is None:
            number = self.account_numbers[key] = len(self.accounts)
            self.accounts.append(self._text(key))
        return number, 1

    def find_account(self, key: int | bytes) -> tuple[int, int] | None:
        if isinstance(key, int):
            return key, 0
        number = self.account_numbers.get(key)
        return None if number is None else (number, 1)

    def account_key(self, account: int, text: int) -> int | bytes:
        return self.accounts[account].text if text else account
