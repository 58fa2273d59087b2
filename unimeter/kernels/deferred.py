"""A job that is done when it is finished, and not before (api.Job): for states that no thread could work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from unimeter.kernels.api import Applied, Bytes, Catalog

NO_CALL = (0, 0)


class DeferredJob:
    call = NO_CALL

    def __init__(self, state: Any, catalog: Catalog, entries: Sequence[Bytes]) -> None:
        """`state`: with the `apply` that is to be used."""
        self._state = state
        self._catalog = catalog
        self._entries = entries

    def finish(self) -> Iterator[Applied]:
        for entry in self._entries:
            yield self._state.apply(self._catalog, entry)
