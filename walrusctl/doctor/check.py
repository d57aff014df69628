"""The finding type of `walrusctl doctor`: what was checked, the result, and what to do about it."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "error"]


class Check(NamedTuple):
    """A finding. Several may have the same `name`; `hint` is empty if there is nothing to do."""

    name: str
    status: Status
    message: str
    hint: str = ""


def has_error(checks: Iterable[Check]) -> bool:
    return any(check.status == "error" for check in checks)
