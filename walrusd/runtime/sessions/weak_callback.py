"""Callbacks that do not keep the object of their method alive, so that no reference cycles arise."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

P = ParamSpec("P")
T = TypeVar("T")


def weak_method(method: Callable[P, T]) -> Callable[P, T]:
    """Returns a function that calls `method` through a weak reference.

    The object must still exist when the function is called.
    """
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        target = reference()
        assert target is not None, "every caller that reads or records holds a reference to the session"
        return target(*args, **kwargs)

    return call
