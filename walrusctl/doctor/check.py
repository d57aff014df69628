"""The finding type of `walrusctl doctor`: what was checked, the result, and what to do about it."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Status = Literal["ok", "warning", "error"]


class Finding(NamedTuple):
    """The result of a check, which may have several; `hint` is empty if there is nothing to do."""

    status: Status
    message: str
    hint: str = ""


def has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.status == "error" for finding in findings)
