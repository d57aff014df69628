"""What is noticed while a configuration is put together: refusals and warnings, each traced to the file and line."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property

from walrus_config.lines import KeyPath
from walrus_config.problems import ConfigError, ConfigProblem


class Source:
    """A file of keys, and where each of them stands. `find` is asked once, and only if there is something to say."""

    def __init__(self, file: str, keys: Mapping[str, object], find: Callable[[], Mapping[KeyPath, int]]) -> None:
        self.file = file
        self.keys = keys
        self._find = find

    @cached_property
    def _lines(self) -> Mapping[KeyPath, int]:
        return self._find()

    def line(self, path: KeyPath) -> int | None:
        """The line of the key, or of the nearest table around it; None for a key of which nothing is written."""
        return next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), None)


class Notes:
    """Collects what is wrong, so that all of it can be said at once. Paths are those of walrus.toml."""

    def __init__(self, toml: Source, front_matters: Mapping[str, Source]) -> None:
        self.toml = toml
        self._front_matters = front_matters
        self._problems: list[ConfigProblem] = []
        self._warnings: list[ConfigProblem] = []

    def refuse(self, path: KeyPath, message: str, hint: str = "") -> None:
        self._problems.append(ConfigProblem(*self.place(path), message, hint))

    def warn(self, path: KeyPath, message: str, hint: str = "") -> None:
        self._warnings.append(ConfigProblem(*self.place(path), message, hint))

    def refuse_all(self, problems: tuple[ConfigProblem, ...]) -> None:
        self._problems += problems

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(map(str, self._warnings))

    def settle(self) -> None:
        """Raises ConfigError if anything was refused so far."""
        if self._problems:
            raise ConfigError(sorted(self._problems, key=lambda problem: (problem.file, problem.line or 0)))

    def place(self, path: KeyPath) -> tuple[str, int | None, str]:
        """The file, the line and the key as that file has it."""
        match path:
            case ("agents", str(name), str(key), *rest) if name in self._front_matters:
                source = self._front_matters[name]
                if key in source.keys:
                    return source.file, source.line((key, *rest)), dotted((key, *rest))
        return self.toml.file, self.toml.line(path), dotted(path)


def dotted(path: KeyPath) -> str:
    """A key as one would write it; what is not a bare key is quoted, so that nothing odd reaches a terminal."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            text += f"{'.' if text else ''}{part if bare else json.dumps(part)}"
    return text
