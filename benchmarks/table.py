"""The result of one measurement, and the table of all results."""

from collections.abc import Sequence
from statistics import median

from msgspec import Struct


class Measurement(Struct, frozen=True, kw_only=True):
    """A measured value with its floor and its goal; `met` is None if there is no goal."""

    what: str
    measured: str
    floor: str = ""
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    values: dict[str, float] = {}
    """The raw numbers, for comparing runs."""


HEADERS = ("what", "measured", "floor", "ratio", "bar", "met?")


def render_table(rows: Sequence[Measurement]) -> str:
    lines = [HEADERS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADERS))]
    texts = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "-+-".join("-" * width for width in widths), *texts[1:]])


def _cells(row: Measurement) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return row.what, row.measured, row.floor, ratio, row.bar, met


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def per_s(rate: float) -> str:
    return f"{rate:,.0f}/s"


def p50(values: Sequence[float]) -> float:
    return median(values)
