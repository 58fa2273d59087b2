"""A job that is done when it is finished, and not before (api.Job): for states that no thread could work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from unimeter.kernels.api import Applied, Bytes, Catalog

NO_CALL = (0, 0)


class DeferredJob:
    call = NO_CALL

    def __init__(self, state: Any, catalog: Catalog, entries: Sequence[Bytes], early: bool = True) -> None:
        """`state`: with the `apply` that is to be used. `early`: what it returns outlives the next one, so the work can be
        done before anybody asks what came of it."""
        self._state = state
        self._catalog = catalog
        self._entries = entries
        self._early = early
        self._applied: list[Applied] | None = None

    def wait(self) -> None:
        if self._early and self._applied is None:
            self._applied = [self._state.apply(self._catalog, entry) for entry in self._entries]

    def finish(self) -> Iterator[Applied]:
        if self._applied is not None:
            yield from self._applied
            return
        for entry in self._entries:
            yield self._state.apply(self._catalog, entry)
