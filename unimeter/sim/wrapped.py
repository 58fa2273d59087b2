"""Kernels with a hole in them, for canaries: everything goes through to the real ones, except what is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unimeter.kernels.api import Kernels
from unimeter.kernels.deferred import DeferredJob


class _Through:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class WrappedIntake(_Through):
    """An Intake; subclasses replace single methods."""


class WrappedState(_Through):
    """A GroupState; subclasses replace single methods."""

    def glance(self, newest: Any, catalog: Any, data: Any) -> None:
        """Nothing is answered past the methods that may have been replaced."""

    def begin(self, catalog: Any, entries: Any) -> DeferredJob:
        """Applied by the method that may have been replaced."""
        return DeferredJob(self, catalog, entries, early=False)


class WrappedKernels(_Through):
    """Kernels whose intakes and states can be wrapped, and whose functions can be replaced by assignment."""

    wrap_intake: Callable[[Any], Any]
    wrap_state: Callable[[Any], Any]
    frame_scan: Any  # these three go through to the real ones until they are replaced
    catalog: Any
    journal_find_later: Any

    def __init__(self, inner: Kernels) -> None:
        super().__init__(inner)
        self.wrap_intake = self.wrap_state = lambda made: made

    def intake(self, group: int, bytes_max: int, batch_events_max: int) -> Any:
        return self.wrap_intake(self.inner.intake(group, bytes_max, batch_events_max))

    def state(self, limits: Any) -> Any:
        return self.wrap_state(self.inner.state(limits))

    def state_loader(self, image_bytes: int) -> Any:
        loader = self.inner.state_loader(image_bytes)
        finish = loader.finish
        outer = self

        class Loader(_Through):
            def finish(self) -> Any:
                return outer.wrap_state(finish())

        return Loader(loader)
