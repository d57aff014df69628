"""Counters and histograms. Counting costs one dict lookup, and values can be read at any time."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from walrusd.observability.prometheus import MetricFamily, MetricSample

MAX_LABEL_VALUES = 100
"""Maximum number of agents, of tools and of models that are counted by name.

Later ones are counted as `other`. People and models may invent new names for months, and each counted name stays in
memory.
"""
OTHER_LABEL = "other"
"""Label of all names beyond MAX_LABEL_VALUES."""


class Counter(defaultdict[tuple[str, ...], float]):
    """A number that only rises, for each tuple of labels; those in `initial_labels` start at 0."""

    def __init__(
        self, name: str, help_text: str, labels: Collection[str] = (), initial_labels: Iterable[str] = ()
    ) -> None:
        super().__init__(int, {(value,): 0 for value in initial_labels} if labels else {(): 0})
        self._name = name
        self._help = help_text
        self._labels = labels

    @property
    def total(self) -> float:
        return sum(self.values())

    def to_family(self) -> MetricFamily:
        samples = [MetricSample(value, tuple(zip(self._labels, labels, strict=True))) for labels, value in self.items()]
        return MetricFamily(name=f"walrusd_{self._name}_total", kind="counter", help=self._help, samples=samples)


class Histogram:
    """Counts values in buckets, each with an inclusive upper bound; the last bucket has none."""

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
        bounds = [*map(str, self._bounds), "+Inf"]
        totals = list(accumulate(self._counts))
        samples = [
            MetricSample(total, (("le", bound),), "_bucket") for bound, total in zip(bounds, totals, strict=True)
        ]
        samples += [MetricSample(self._sum, suffix="_sum"), MetricSample(totals[-1], suffix="_count")]
        return MetricFamily(name=f"walrusd_{self._name}", kind="histogram", help=self._help, samples=samples)


class BoundedLabels:
    """The label values of one kind: the first MAX_LABEL_VALUES names, and `other` for all later ones."""

    def __init__(self) -> None:
        self._labels: set[str] = set()

    def label_for(self, name: str) -> str:
        """Returns the name itself, or OTHER_LABEL if the limit has been reached."""
        if name not in self._labels:
            if len(self._labels) >= MAX_LABEL_VALUES:
                return OTHER_LABEL
            self._labels.add(name)
        return name
