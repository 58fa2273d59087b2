"""Runs a reading flow of the core on the files of a directory, without a node: for tools that only look."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from unimeter.core.flow import Flow, ReadFailed, ReadFile, Request
from unimeter.core.inputs import FileInfo

T = TypeVar("T")


def files_of(data_dir: Path) -> tuple[FileInfo, ...]:
    """All files below a data directory, sorted by name."""
    found = (path for path in data_dir.rglob("*") if path.is_file())
    return tuple(sorted(FileInfo(path.relative_to(data_dir).as_posix(), path.stat().st_size) for path in found))


def run_reading(data_dir: Path, flow: Flow[T]) -> T:
    """The flow's result. It may only read: asking for anything else is a bug of the caller."""
    try:
        request = next(flow)
        while True:
            try:
                data = _read(data_dir, request)
            except OSError as error:
                request = flow.throw(ReadFailed(str(error)))
            else:
                request = flow.send(data)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _read(data_dir: Path, request: Request) -> bytes:
    assert isinstance(request, ReadFile), f"a tool that looks must not ask for {type(request).__name__}"
    with (data_dir / request.file).open("rb") as file:
        file.seek(request.offset)
        return file.read(request.length)
