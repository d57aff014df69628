"""One finding of the doctor: what was looked at, how it is, and what to do about it."""

from typing import Literal, NamedTuple

Status = Literal["fine", "warning", "broken"]


class Check(NamedTuple):
    """`name` is what was looked at; several findings may have the same. `hint` is empty where nothing is to be done."""

    name: str
    status: Status
    message: str
    hint: str = ""
