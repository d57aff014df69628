"""Secrets and how they are resolved: `${NAME}` in api_key and headers, key files, systemd credentials.

Never prints a secret.
"""

import os
import re
from collections.abc import Mapping

from walrus_config.diagnostics import Location
from walrus_config.errors import ConfigError
from walrus_config.paths import expand
from walrus_config.read_files import read_text

CREDENTIAL_PREFIX = "credential:"
MAX_SECRET = 64 * 1024
"""Maximum bytes of a key file: larger than any key, smaller than most files named by mistake."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_SAFE = re.compile(r"[\t\x20-\x7e]+")


class Secret:
    """A text that prints as ***. `reveal` is called only at the place of use."""

    __slots__ = ("_text", "parts")

    def __init__(self, text: str, parts: tuple[str, ...] = ()) -> None:
        """`parts` are the environment values inside the text; each is a secret by itself."""
        self._text = text
        self.parts = parts

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def expand_variables(secret: Secret, environ: Mapping[str, str], at: Location) -> Secret:
    """Returns the secret with each `${NAME}` replaced, also within other text."""
    parts: list[str] = []

    def variable_value(found: re.Match[str]) -> str:
        name = found[1]
        if not found[0].endswith("}") or not _VARIABLE_NAME.fullmatch(name):
            at.add_error("${ is not followed by the name of a variable and }", "write ${NAME}")
        elif not environ.get(name):
            state = "empty" if name in environ else "not set"
            at.add_error(f"the environment variable {name} is {state}", f"export {name}=… before walrusd starts")
        parts.append(environ.get(name, ""))
        return parts[-1]

    text = _VARIABLE.sub(variable_value, secret.reveal())
    if not all(parts):  # already reported as an error; the rest of the text is not checked
        return Secret(text, tuple(parts))
    return Secret(_check_header_safe(text, at).reveal(), tuple(parts))


def read_secret_file(path: str, environ: Mapping[str, str], home: str, at: Location) -> tuple[str, Secret | None]:
    """Returns the absolute path of a key file, and the secret in it without surrounding white space.

    The secret is None if the file cannot be read; the error is then reported.
    """
    private = True
    if path.startswith(CREDENTIAL_PREFIX):
        folder, name = environ.get("CREDENTIALS_DIRECTORY", ""), path.removeprefix(CREDENTIAL_PREFIX)
        if not folder:
            at.add_error("systemd provides no credentials here", f"add LoadCredential={name}:… to the service's unit")
            return path, None
        if not name or "/" in name or name in (".", ".."):
            at.add_error("not a valid credential name", "write credential:NAME")
            return path, None
        path = os.path.join(folder, name)
    else:
        path = expand(path, environ, base=home)
        private = is_private(path)
    try:
        text = read_text(path, limit=MAX_SECRET).strip()
    except FileNotFoundError:
        at.add_error(f"there is no file {path}")
        return path, None
    except ConfigError as error:
        problem = error.problems[0]
        at.add_error(f"{problem.file}: {problem.message}", problem.hint)
        return path, None
    if not private:
        at.add_warning(f"others may read {path}", f"chmod 600 {path}")
    return path, _check_header_safe(text, at)


def is_private(path: str) -> bool:
    """Returns False for a file that group or others may read, True also for a missing file."""
    try:
        return os.stat(path).st_mode & 0o044 == 0
    except OSError:
        return True


def _check_header_safe(text: str, at: Location) -> Secret:
    if not text:
        at.add_error("is empty")
    elif not _HEADER_SAFE.fullmatch(text):
        at.add_error("contains a line break or another character that is not allowed in a header")
    return Secret(text)
