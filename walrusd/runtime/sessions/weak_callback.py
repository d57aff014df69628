"""A method that does not keep what it is a method of alive."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

P = ParamSpec("P")
T = TypeVar("T")


def weak_method(method: Callable[P, T]) -> Callable[P, T]:
    """`method`, for one who is gone before its session is, or holds it whenever it calls."""
    known = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        there = known()
        assert there is not None, "whoever reads or records holds the session meanwhile"
        return there(*args, **kwargs)

    return call
