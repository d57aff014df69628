"""Formats metrics as a dict by name, or as the text that Prometheus scrapes. Pure functions."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct


class MetricSample(NamedTuple):
    """One value of a metric with its labels."""

    value: float
    labels: Sequence[tuple[str, str]] = ()
    suffix: str = ""
    """Suffix of the metric's name; only samples of a histogram have one."""


class MetricFamily(Struct, frozen=True, kw_only=True):
    """All samples of one metric, with its type and its help text."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[MetricSample]


def index_by_name(families: Iterable[MetricFamily]) -> dict[str, float]:
    """Returns all values by their names in the Prometheus text, labels included."""
    return {_sample_name(family, sample): sample.value for family in families for sample in family.samples}


def format_prometheus(families: Iterable[MetricFamily]) -> str:
    """Returns the metrics in Prometheus' text format 0.0.4."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escape(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [f"{_sample_name(family, sample)} {_format_number(sample.value)}" for sample in family.samples]
    return "".join(f"{line}\n" for line in lines)


def _sample_name(family: MetricFamily, sample: MetricSample) -> str:
    labels = ",".join(f'{name}="{_escape_label_value(value)}"' for name, value in sample.labels)
    name = f"{family.name}{sample.suffix}"
    return f"{name}{{{labels}}}" if labels else name


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escape_label_value(text: str) -> str:
    return _escape(text).replace('"', r"\"")


def _format_number(value: float) -> str:
    """Returns the shortest text that reads back as the same number; whole numbers have no decimal point."""
    return str(int(value)) if float(value).is_integer() else repr(value)
