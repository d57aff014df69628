"""Reads text files and parses TOML; errors name the file and the line."""

import os
import re
import stat
import tomllib

from walrus_config.errors import ConfigError, ConfigProblem, config_error

_ERROR_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read_text(path: str, *, limit: int) -> str:
    """Returns the text of a regular UTF-8 file of at most `limit` bytes.

    Raises FileNotFoundError and ConfigError.
    """
    try:
        # Checked before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise config_error(path, "not a regular file", "replace it by a text file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = "make it readable for the user that runs walrusd"
        raise config_error(path, f"cannot be read: {error.strerror}", hint) from error
    if len(data) > limit:
        raise config_error(path, f"larger than {limit:,} bytes", "check that it is the right file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = ConfigProblem(path, line, "", "a byte here is not UTF-8", "save the file as UTF-8")
        raise ConfigError([problem]) from error


def parse_toml(file: str, text: str, *, first_line: int = 1) -> dict[str, object]:
    """Returns the tables of a TOML text that begins at `first_line` of `file`. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise config_error(file, "nested too deeply") from error
    except ValueError as error:  # from tomllib, or from int() for a number with thousands of digits
        message = str(error)
        line = None
        if position := _ERROR_POSITION.search(message):
            message = message[: position.start()]
            line = first_line - 1 + (int(position[1]) if position[1] else max(1, len(text.splitlines())))
        problem = ConfigProblem(file, line, "", message[:1].lower() + message[1:], "this is not TOML")
        raise ConfigError([problem]) from error
