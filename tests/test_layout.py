"""The Python mirror of um_layout.h is exact: every constant, every field, every size, as the C compiler has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unimeter.kernels import layout
from unimeter.kernels.api import Limits
from unimeter.kernels.native._um import ffi, lib

HEADERS = Path(__file__).resolve().parent.parent / "csrc" / "kernels"
DEFINE = re.compile(r"^#define (UM_\w+) (\d+)", re.MULTILINE)
SIZES = {code: size for size, codes in {1: "Bsx", 2: "H", 4: "I", 8: "Qq"}.items() for code in codes}


def test_every_constant_of_the_headers_is_mirrored_with_its_value() -> None:
    defined = {
        name: int(value)
        for header in ("um_layout.h", "um_kernels.h")
        for name, value in DEFINE.findall((HEADERS / header).read_text())
    }
    mirrored = {name: value for name, value in vars(layout).items() if name.startswith("UM_")}
    assert mirrored == defined
    for name, value in defined.items():
        assert getattr(lib, name) == value


def structs_of_the_header() -> set[str]:
    names = re.findall(r"\}\s*(um_\w+);", (HEADERS / "um_layout.h").read_text())
    pointers_inside = {
        "um_arena",
        "um_fps_tree",
        "um_table",
        "um_state",
        "um_intake",
        "um_splitter",
        "um_spans",
        "um_span",
        "um_span_event",
        "um_failure",
    }  # in memory only: never bytes of a log or an image
    return set(names) - pointers_inside - {"um_catalog"}  # the catalog is an array of um_metric, never packed whole


def test_every_flat_struct_of_the_header_is_mirrored() -> None:
    assert set(layout.LAYOUTS) == structs_of_the_header()


@pytest.mark.parametrize("name", sorted(layout.LAYOUTS))
def test_struct_has_the_fields_offsets_and_size_that_c_has(name: str) -> None:
    packed, offsets = layout.LAYOUTS[name]
    fields = ffi.typeof(name).fields
    assert fields is not None
    assert [field for field, _ in fields] == list(offsets)
    assert {field: ffi.offsetof(name, field) for field, _ in fields} == offsets
    assert packed.size == ffi.sizeof(name)
    assert packed.size % 8 == 0 or name == "um_dimension"


def test_named_tuples_have_the_fields_of_their_structs() -> None:
    for name, head in (
        ("um_record", layout.RecordHead),
        ("um_entry", layout.EntryHead),
        ("um_batch", layout.BatchHead),
        ("um_row", layout.RowHead),
    ):
        assert list(head._fields) == list(layout.LAYOUTS[name][1])


def test_limits_survive_encoding() -> None:
    limits = Limits(tuple(range(1, 18)), 99, 77, 55)
    assert layout.decode_limits(layout.encode_limits(limits)) == limits
    c = ffi.new("um_limits *")
    ffi.memmove(c, layout.encode_limits(limits), ffi.sizeof("um_limits"))
    assert list(c.records_max) == list(limits.records_max)
    assert (c.fingerprints_per_generation, c.cells_per_series_max, c.session_idle_ns) == (99, 77, 55)


def test_metric_survives_packing_and_reads_the_same_in_c() -> None:
    metric = layout.MetricDef(
        7, b"tokens", layout.UM_AGG_MAX, True, (b"model", b"region"), ((100, False), None, (-5, True)), 3, 28, False
    )
    data = layout.pack_metric(*metric)
    assert layout.unpack_metric(data) == metric
    c = ffi.new("um_metric *")
    ffi.memmove(c, data, ffi.sizeof("um_metric"))
    assert ffi.string(c.code) == b"tokens"
    assert ffi.string(c.dimensions[1].key) == b"region"
    assert (c.thresholds[0].value, c.thresholds[1].active, c.thresholds[2].recurring) == (100, 0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"code": b""},
        {"code": b"x" * 64},
        {"code": b"a\0b"},
        {"dimensions": (b"",)},
        {"dimensions": (b"k" * 32,)},
        {"dimensions": (b"k",) * 17},
        {"thresholds": (None,) * 65},
    ],
)
def test_metric_that_does_not_fit_is_refused(bad: dict[str, object]) -> None:
    arguments: dict[str, object] = {"id": 1, "code": b"ok", "aggregation": 0} | bad
    with pytest.raises(ValueError, match=r"a metric|a dimension|at most"):
        layout.pack_metric(**arguments)  # type: ignore[arg-type]
