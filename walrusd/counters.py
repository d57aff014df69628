"""What only rises: numbers that cost a look into a dict to count, and can be read at any time."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from walrusd.exposition import Family, Sample

MOST_NAMES = 100
"""Agents, tools and models that are counted by name, of each kind so many; those that come after count as `other`.

Names come from people and from models, who may think of new ones for months, and what is counted is held for ever.
"""
OTHER = "other"


class Counter:
    """A number that only rises, for each combination of labels that was met; `known` ones are there from 0 on."""

    def __init__(self, name: str, text: str, labels: Collection[str] = (), known: Iterable[str] = ()) -> None:
        self._name = name
        self._help = text
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {(value,): 0 for value in known} if labels else {(): 0}

    def add(self, *labels: str, by: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + by

    @property
    def total(self) -> float:
        return sum(self._values.values())

    def family(self) -> Family:
        samples = [
            Sample(value, tuple(zip(self._labels, labels, strict=True))) for labels, value in self._values.items()
        ]
        return Family(name=f"walrusd_{self._name}_total", kind="counter", help=self._help, samples=samples)


class Histogram:
    """Values in buckets, each with an end that belongs to it; the last one has none."""

    def __init__(self, name: str, text: str, ends: Sequence[float]) -> None:
        self._name = name
        self._help = text
        self._ends = ends
        self._counts = [0] * (len(ends) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._ends, value)] += 1
        self._sum += value

    def family(self) -> Family:
        ends = [*map(str, self._ends), "+Inf"]
        upto = list(accumulate(self._counts))
        samples = [Sample(count, (("le", end),), "_bucket") for end, count in zip(ends, upto, strict=True)]
        samples += [Sample(self._sum, suffix="_sum"), Sample(upto[-1], suffix="_count")]
        return Family(name=f"walrusd_{self._name}", kind="histogram", help=self._help, samples=samples)


class Names:
    """The first MOST_NAMES of a kind."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def counted(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= MOST_NAMES:
                return OTHER
            self._known.add(name)
        return name
