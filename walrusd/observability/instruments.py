"""What only rises: numbers that cost a look into a dict to count, and can be read at any time."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from walrusd.observability.prometheus import MetricFamily, MetricSample

MAX_LABEL_VALUES = 100
"""Agents, tools and models that are counted by name, of each kind so many; those that come after count as `other`.

Names come from people and from models, who may think of new ones for months, and what is counted is held for ever.
"""
OTHER_LABEL = "other"


class Counter:
    """A number that only rises, for each combination of labels that was met; `known` ones are there from 0 on."""

    def __init__(
        self, name: str, help_text: str, labels: Collection[str] = (), initial_labels: Iterable[str] = ()
    ) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {(value,): 0 for value in initial_labels} if labels else {(): 0}

    def add(self, *labels: str, amount: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + amount

    @property
    def total(self) -> float:
        return sum(self._values.values())

    def to_family(self) -> MetricFamily:
        samples = [
            MetricSample(value, tuple(zip(self._labels, labels, strict=True))) for labels, value in self._values.items()
        ]
        return MetricFamily(name=f"walrusd_{self._name}_total", kind="counter", help=self._help, samples=samples)


class Histogram:
    """Values in buckets, each with an end that belongs to it; the last one has none."""

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help_text
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def to_family(self) -> MetricFamily:
        ends = [*map(str, self._bounds), "+Inf"]
        upto = list(accumulate(self._counts))
        samples = [MetricSample(count, (("le", end),), "_bucket") for end, count in zip(ends, upto, strict=True)]
        samples += [MetricSample(self._sum, suffix="_sum"), MetricSample(upto[-1], suffix="_count")]
        return MetricFamily(name=f"walrusd_{self._name}", kind="histogram", help=self._help, samples=samples)


class BoundedLabels:
    """The first MOST_NAMES of a kind."""

    def __init__(self) -> None:
        self._labels: set[str] = set()

    def label_for(self, name: str) -> str:
        if name not in self._labels:
            if len(self._labels) >= MAX_LABEL_VALUES:
                return OTHER_LABEL
            self._labels.add(name)
        return name
