"""From a path to text, and from text to the tables of TOML; what fails says where."""

import os
import re
import stat
import tomllib

from walrus_config.errors import ConfigError, ConfigProblem, config_error

_ERROR_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read_text(path: str, *, limit: int) -> str:
    """The text of a regular file in UTF-8 of at most `limit` bytes. Raises FileNotFoundError, ConfigError."""
    try:
        # Looked at before it is opened: opening a pipe would wait for whoever writes it.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise config_error(path, "not a regular file", "put a text file in its place")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise config_error(path, f"cannot be read: {error.strerror}", "its owner must be able to read it") from error
    if len(data) > limit:
        raise config_error(path, f"larger than {limit:,} bytes", "nothing that is meant to be read here is that large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = ConfigProblem(path, line, "", "a byte here is not UTF-8", "save the file as UTF-8")
        raise ConfigError([problem]) from error


def parse_toml(file: str, text: str, *, first_line: int = 1) -> dict[str, object]:
    """The tables of a TOML text that begins at `first_line` of `file`. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise config_error(file, "nested too deeply") from error
    except ValueError as error:  # tomllib's own, and what int() says of a number with thousands of digits
        message = str(error)
        line = None
        if place := _ERROR_POSITION.search(message):
            message = message[: place.start()]
            line = first_line - 1 + (int(place[1]) if place[1] else max(1, len(text.splitlines())))
        problem = ConfigProblem(file, line, "", message[:1].lower() + message[1:], "this is not TOML")
        raise ConfigError([problem]) from error
