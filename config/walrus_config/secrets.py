"""Where secrets come from: `${NAME}` in api_key and headers, a file, a systemd credential. Nothing here prints one."""

import os
import re
from collections.abc import Mapping

from walrus_config.lines import KeyPath
from walrus_config.notes import Notes
from walrus_config.paths import expand
from walrus_config.problems import ConfigError
from walrus_config.reading import read_text
from walrus_config.schema import Secret

CREDENTIAL = "credential:"
MAX_SECRET = 64 * 1024
"""Bytes of a file with a key: more than any key or token, and less than a file named by mistake."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SENDABLE = re.compile(r"[\t\x20-\x7e]+")


def from_environment(secret: Secret, environ: Mapping[str, str], at: KeyPath, notes: Notes) -> Secret:
    """The secret with each `${NAME}` replaced, in the midst of other text too."""

    parts: list[str] = []

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if not found[0].endswith("}") or not _NAME.fullmatch(name):
            notes.refuse(at, "a ${ here begins no name of the environment", "write ${NAME}")
        elif not environ.get(name):
            state = "empty" if name in environ else "not set"
            notes.refuse(at, f"the environment variable {name} is {state}", f"export {name}=… before walrusd starts")
        parts.append(environ.get(name, ""))
        return parts[-1]

    text = _VARIABLE.sub(value, secret.reveal())
    if not all(parts):  # that has been refused, and what is left of the text means nothing
        return Secret(text, tuple(parts))
    return Secret(_sendable(text, at, notes).reveal(), tuple(parts))


def from_file(path: str, environ: Mapping[str, str], home: str, at: KeyPath, notes: Notes) -> tuple[str, Secret | None]:
    """The file, absolute, and the secret in it, less the white space around it."""
    private = True
    if path.startswith(CREDENTIAL):
        folder, name = environ.get("CREDENTIALS_DIRECTORY", ""), path.removeprefix(CREDENTIAL)
        if not folder:
            notes.refuse(at, "there are no systemd credentials here", f"LoadCredential={name}:… in the service's unit")
            return path, None
        if not name or "/" in name or name in (".", ".."):
            notes.refuse(at, "not the name of a credential", "write credential:NAME")
            return path, None
        path = os.path.join(folder, name)
    else:
        path = expand(path, environ, base=home)
        private = is_private(path)
    try:
        text = read_text(path, limit=MAX_SECRET).strip()
    except FileNotFoundError:
        notes.refuse(at, f"there is no {path}")
        return path, None
    except ConfigError as error:
        problem = error.problems[0]
        notes.refuse(at, f"{problem.file}: {problem.message}", problem.hint)
        return path, None
    if not private:
        notes.warn(at, f"others may read {path}", f"chmod 600 {path}")
    return path, _sendable(text, at, notes)


def is_private(path: str) -> bool:
    """False for a file that group or others may read; what is not there is no secret of ours."""
    try:
        return os.stat(path).st_mode & 0o044 == 0
    except OSError:
        return True


def _sendable(text: str, at: KeyPath, notes: Notes) -> Secret:
    if not text:
        notes.refuse(at, "is empty")
    elif not _SENDABLE.fullmatch(text):
        notes.refuse(at, "holds a line break or another character that a header cannot carry")
    return Secret(text)
