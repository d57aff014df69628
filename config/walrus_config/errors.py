"""The errors of the home and its configuration files, with file, line, key and a hint for people."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple


class ConfigProblem(NamedTuple):
    """One error: its location, what is wrong, and what to do about it."""

    file: str
    line: int | None
    """The line, from 1; None if the problem concerns no line."""
    key: str
    """The dotted key as walrus.toml writes it; empty if the problem concerns no key."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        location = self.file if self.line is None else f"{self.file}:{self.line}"
        text = f"{location}: {self.key}: {self.message}" if self.key else f"{location}: {self.message}"
        return f"{text}; {self.hint}" if self.hint else text


class ConfigError(Exception):
    """The configuration cannot be used. `str()` gives one line for each problem."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def config_error(file: str, message: str, hint: str = "") -> ConfigError:
    """Returns an error that concerns a whole file or folder."""
    return ConfigError([ConfigProblem(file, None, "", message, hint)])


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a hint with the most similar of `names`, or all names if they are few, or ""."""
    known = sorted(names)
    if matches := get_close_matches(name, known, n=1):
        return f"did you mean {matches[0]}?"
    # Twelve names fit on two lines of a terminal; for more, the sample is the better list.
    return f"known here: {', '.join(known)}" if 0 < len(known) <= 12 else ""
