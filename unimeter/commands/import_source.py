"""Records of a file: CSV with a header line, or NDJSON (one JSON object per line), plain or gzipped.

A record is its line number and the texts of the wanted columns, in the wanted order; "" where there is none. What is
not a proper record is a BadRecord in its place: nothing is skipped but lines without anything on them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, cast

from unimeter.errors import InvalidArgument

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadRecord:
    line: int
    reason: str
    raw: str


Record = tuple[int, Texts] | BadRecord


class Source:
    """An open file. `position_bytes` of `size_bytes` (as stored, so compressed if it is) have been read."""

    def __init__(self, path: Path, kind: str, delimiter: str, columns: Sequence[str]) -> None:
        self.kind = kind
        self.size_bytes: int | None = None
        self._delimiter = delimiter
        self._columns = tuple(columns)
        if str(path) == "-":
            self._raw: BinaryIO = sys.stdin.buffer
        else:
            self._raw = path.open("rb")
            self.size_bytes = path.stat().st_size
        data: BinaryIO = self._raw
        if path.name.endswith(".gz"):
            data = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw))
        # bytes that are not UTF-8 become surrogates, which no valid row may contain: its row is bad, not the file
        self._text = io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size_bytes is not None:
            self._text.close()
            self._raw.close()

    @property
    def position_bytes(self) -> int:
        return self._raw.tell() if self.size_bytes is not None else 0

    def records(self) -> Iterator[Record]:
        """Raises InvalidArgument when the file has not the wanted columns, OSError when it cannot be read."""
        return self._csv_records() if self.kind == "csv" else self._json_records()

    def _csv_records(self) -> Iterator[Record]:
        csv.field_size_limit(16 * 1024 * 1024)
        reader = csv.reader(self._text, delimiter=self._delimiter, strict=True)
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise InvalidArgument(f"the header line is no CSV: {error}") from None
        if not header:
            raise InvalidArgument("the file has no header line")
        width = len(header)
        pick = _picker([_find(header, column) for column in self._columns])
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield BadRecord(line, f"not CSV: {error}", "")
                continue
            if row is None:
                return
            if len(row) == width:
                yield line, pick(row)
            elif row:
                yield BadRecord(line, f"{len(row)} columns, where the header has {width}", self._delimiter.join(row))

    def _json_records(self) -> Iterator[Record]:
        columns = self._columns
        decode = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_constant).decode
        for line, raw in enumerate(self._text, 1):
            if raw.isspace():
                continue
            try:
                body = decode(raw)
                if not isinstance(body, dict):
                    raise ValueError("not a JSON object")
                yield line, tuple([_json_text(body, column) for column in columns])
            except (ValueError, RecursionError) as error:
                yield BadRecord(line, f"not a proper record: {error}", raw.rstrip("\r\n"))


def _find(header: Sequence[str], column: str) -> int:
    found = [place for place, name in enumerate(header) if name == column]
    if not found:
        raise InvalidArgument(f"the file has no column {column!r}; it has {', '.join(map(repr, header))}")
    if len(found) > 1:
        raise InvalidArgument(f"the file has {len(found)} columns named {column!r}")
    return found[0]


def _picker(places: Sequence[int]) -> Callable[[list[str]], Texts]:
    if len(places) == 1:
        place = places[0]
        return lambda row: (row[place],)
    return itemgetter(*places)


def _json_text(body: dict[str, Any], column: str) -> str:
    """A value as text. Dots in a column's name descend into objects, unless a key has the whole name."""
    value: Any = body.get(column)
    if value is None and "." in column and column not in body:
        value = body
        for part in column.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    raise ValueError(f"{column!r} is neither text nor a number")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def kind_of(path: Path) -> str:
    """csv or ndjson, by the file's name."""
    name = path.name.removesuffix(".gz").lower()
    if name.endswith((".ndjson", ".jsonl")):
        return "ndjson"
    if name.endswith((".csv", ".tsv", ".txt")) or name == "-":
        return "csv"
    raise InvalidArgument(f"{path.name}: neither .csv nor .ndjson by its name; say which with --format")
