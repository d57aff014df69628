"""Collects the errors and warnings of loading a configuration, each with its file, line and key."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

from walrus_config.errors import ConfigError, ConfigProblem
from walrus_config.toml_positions import KeyPath


class SourceFile:
    """A file with keys and their lines.

    `locate_keys` is called at most once, and only if a line is needed.
    """

    def __init__(self, file: str, keys: Mapping[str, object], locate_keys: Callable[[], Mapping[KeyPath, int]]) -> None:
        self.file = file
        self.keys = keys
        self._locate_keys = locate_keys

    @cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        return self._locate_keys()

    def find_line(self, key_path: KeyPath) -> int | None:
        """Returns the line of the key, or of the nearest table around it; None if the file has neither."""
        return next(
            (self._lines[key_path[:n]] for n in range(len(key_path), 0, -1) if key_path[:n] in self._lines), None
        )


class Diagnostics:
    """The errors and warnings found so far, so that all are reported together.

    Key paths are those of walrus.toml.
    """

    def __init__(self, toml: SourceFile, front_matters: Mapping[str, SourceFile]) -> None:
        self.toml = toml
        self._front_matters = front_matters
        self._errors: list[ConfigProblem] = []
        self._warnings: list[ConfigProblem] = []

    def add_error(self, key_path: KeyPath, message: str, hint: str = "") -> None:
        self._errors.append(ConfigProblem(*self.locate(key_path), message, hint))

    def add_warning(self, key_path: KeyPath, message: str, hint: str = "") -> None:
        self._warnings.append(ConfigProblem(*self.locate(key_path), message, hint))

    def add_errors(self, problems: tuple[ConfigProblem, ...]) -> None:
        self._errors += problems

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(map(str, self._warnings))

    def raise_if_errors(self) -> None:
        """Raises ConfigError with all errors so far, if there are any."""
        if self._errors:
            raise ConfigError(sorted(self._errors, key=lambda problem: (problem.file, problem.line or 0)))

    def locate(self, key_path: KeyPath) -> tuple[str, int | None, str]:
        """Returns the file, the line and the key as an error shows them."""
        source, key_path = self._find_source(key_path)
        return source.file, source.find_line(key_path), format_key_path(key_path)

    def has_key(self, key_path: KeyPath) -> bool:
        """Returns whether a file sets the key."""
        source, key_path = self._find_source(key_path)
        table: object = source.keys
        for part in key_path:
            if not isinstance(table, dict) or part not in table:
                return False
            table = table[part]
        return True

    def _find_source(self, key_path: KeyPath) -> tuple[SourceFile, KeyPath]:
        """Returns the file of a key, and the key as that file writes it."""
        match key_path:
            case ("agents", str(name), str(key), *rest) if name in self._front_matters:
                source = self._front_matters[name]
                if key in source.keys:
                    return source, (key, *rest)
        return self.toml, key_path


class Location(NamedTuple):
    """A key or a table of the configuration, and the diagnostics to which problems with it are added."""

    diagnostics: Diagnostics
    path: KeyPath

    def key(self, *keys: str | int) -> "Location":
        """Returns the location of a key in this table, or of an element in this list."""
        return Location(self.diagnostics, (*self.path, *keys))

    @property
    def is_set(self) -> bool:
        """Whether a file sets the key."""
        return self.diagnostics.has_key(self.path)

    def add_error(self, message: str, hint: str = "") -> None:
        self.diagnostics.add_error(self.path, message, hint)

    def add_warning(self, message: str, hint: str = "") -> None:
        self.diagnostics.add_warning(self.path, message, hint)


def format_key_path(key_path: KeyPath) -> str:
    """Returns a key as TOML writes it.

    All but bare keys are quoted, so that no control character is printed.
    """
    text = ""
    for part in key_path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += f"{'.' if text else ''}{part if bare else json.dumps(part)}"
    return text
