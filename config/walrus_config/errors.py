"""What is wrong with the home or with one of its files, said so that a person can put it right."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple


class ConfigProblem(NamedTuple):
    """One thing that is wrong, where it stands, and what to do about it."""

    file: str
    line: int | None
    """From 1; None where the problem is not of a line."""
    key: str
    """Dotted, as it would be written in walrus.toml; empty where the problem is not of a key."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        said = f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"
        return f"{said}; {self.hint}" if self.hint else said


class ConfigError(Exception):
    """The configuration cannot be used. `str()` is a line for each problem."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def config_error(file: str, message: str, hint: str = "") -> ConfigError:
    """The refusal of a whole file or folder."""
    return ConfigError([ConfigProblem(file, None, "", message, hint)])


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint that names the nearest of `names`, or all of a few; empty where there are none."""
    known = sorted(names)
    if near := get_close_matches(name, known, n=1):
        return f"did you mean {near[0]}?"
    # Twelve fit on two lines of a terminal; beyond that the sample is the better list.
    return f"known here: {', '.join(known)}" if 0 < len(known) <= 12 else ""
