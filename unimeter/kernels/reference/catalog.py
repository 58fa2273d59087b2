"""The metric definitions as the kernels see them: position is the metric id, codes find the living."""

from __future__ import annotations

from collections.abc import Sequence

from unimeter.kernels.api import Catalog
from unimeter.kernels.layout import MetricDef, unpack_metric


class ReferenceCatalog:
    def __init__(self, packed: Sequence[bytes]) -> None:
        self.metrics: tuple[MetricDef, ...] = tuple(unpack_metric(data) for data in packed)
        self._alive = {metric.code: number for number, metric in enumerate(self.metrics) if metric.alive}

    def find(self, code: bytes) -> int:
        """Metric id, or -1."""
        return self._alive.get(bytes(code), -1)

    def alive(self, metric: int) -> MetricDef | None:
        """The definition of a metric id, None when there is none or it was deleted."""
        if metric < len(self.metrics) and self.metrics[metric].alive:
            return self.metrics[metric]
        return None


def own(catalog: Catalog) -> ReferenceCatalog:
    """Kernels of one implementation only meet each other."""
    assert isinstance(catalog, ReferenceCatalog)
    return catalog
