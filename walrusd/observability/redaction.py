"""Replaces known secrets by stars: in log lines, in errors and in the output of tools."""

import codecs
import re
from collections.abc import Collection
from urllib.parse import quote

from msgspec import json

MASK = "***"
"""The text that replaces a secret."""
MIN_SECRET_LENGTH = 4
"""Minimum characters of a secret that is redacted.

Servers that need no key are often configured with one like "x"; redacting it would mangle every word with an x.
"""

MAX_RETIRED_SECRETS = 64
"""Maximum number of former secrets that are still redacted; older ones are not in use any more."""


_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_JSON_FOR_HTML = str.maketrans({char: f"\\u{ord(char):04x}" for char in "&<>"})
_URL_ESCAPE = re.compile("%[0-9A-F]{2}")
_JSON_FOR_DOTNET = str.maketrans({char: f"\\u{ord(char):04X}" for char in "&<>+\"'`"})


class Redaction:
    """Redacts a whole text when called with it. For a text that comes in pieces use StreamingRedactor."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._retired: list[str] = []
        self._current = list(secrets)
        self._compile(secrets)

    def update_secrets(self, secrets: Collection[str]) -> None:
        """Redacts these secrets from now on, and still the former ones: a replaced secret is still a secret."""
        replaced = [secret for secret in (*self._retired, *self._current) if secret not in secrets]
        self._retired, self._current = replaced[-MAX_RETIRED_SECRETS:], list(secrets)
        self._compile({*self._retired, *secrets})

    def _compile(self, secrets: Collection[str]) -> None:
        spellings = {text for secret in secrets if len(secret) >= MIN_SECRET_LENGTH for text in _spellings(secret)}
        self._secrets = sorted(spellings, key=len, reverse=True)
        self._max_length = max(map(len, self._secrets), default=0)
        self._first_character_pattern = re.compile("|".join(sorted({re.escape(secret[0]) for secret in self._secrets})))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                return "".join(self._redact_until(text, len(text))[0])
        return text

    def split_safe_prefix(self, text: str) -> tuple[str, str]:
        """Returns the redacted part of the text that no later text can change, and the unredacted rest."""
        if not self._secrets:
            return text, ""
        safe_end = self._find_partial_secret(text, len(text) - self._max_length + 1)
        parts, end = self._redact_until(text, safe_end)
        return "".join(parts), text[end:]

    def _redact_until(self, text: str, safe_end: int) -> tuple[list[str], int]:
        """Returns the redacted pieces up to `safe_end`, or further if a secret crosses it, and their end."""
        parts: list[str] = []
        position = 0
        # Checking each secret first is far faster than the pattern, and most texts contain none.
        present = [secret for secret in self._secrets if secret in text]
        # If two secrets begin at the same place, the pattern finds the longer one: it comes first.
        pattern = re.compile("|".join(map(re.escape, present)))
        while present and (found := pattern.search(text, position)) and found.start() < safe_end:
            parts += text[position : found.start()], MASK
            position = found.end()
            if position > safe_end:
                safe_end = self._find_partial_secret(text, position)
        return [*parts, text[position:safe_end]], max(position, safe_end)

    def _find_partial_secret(self, text: str, start: int) -> int:
        """Returns where, from `start` on, a secret begins that the end of the text may cut off.

        Returns len(text) if there is none.
        """
        for found in self._first_character_pattern.finditer(text, max(start, 0)):
            tail = text[found.start() :]
            if any(len(tail) < len(secret) and secret.startswith(tail) for secret in self._secrets):
                return found.start()
        return len(text)


def _spellings(secret: str) -> set[str]:
    """Returns the secret as it is, and as it is written in JSON, in JSON within JSON, in Python, in HTML and in URLs.

    Some encoders of JSON also escape the characters that are special in HTML; those of URLs may leave a slash, or write
    small hexadecimal digits.
    """
    escaped, in_python, in_url = _as_json(secret), secret.replace("\\", r"\\"), quote(secret, safe="")
    return {
        secret,
        in_python,
        escaped,
        escaped.replace("/", r"\/"),
        escaped.translate(_JSON_FOR_HTML),
        in_python.translate(_JSON_FOR_DOTNET),
        _as_json(escaped),
        secret.translate(_HTML),
        in_url,
        in_url.replace("%2F", "/"),
        _URL_ESCAPE.sub(lambda found: found[0].lower(), in_url),
    }


def _as_json(text: str) -> str:
    return json.encode(text).decode()[1:-1]


class StreamingRedactor:
    """Redacts one text that comes in pieces, cut anywhere; the results joined are the redacted whole text."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._pending = ""

    def feed(self, piece: str) -> str:
        """Returns the redacted text that is final. Text that may still become a secret is held back."""
        final, self._pending = self._redaction.split_safe_prefix(self._pending + piece)
        return final

    def finish(self) -> str:
        """Returns the rest, redacted, after the last piece."""
        rest, self._pending = self._pending, ""
        return self._redaction(rest)


class RedactingDecoder:
    """Decodes and redacts process output that comes in pieces; invalid UTF-8 is replaced."""

    def __init__(self, redaction: Redaction) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._redactor = StreamingRedactor(redaction)

    def feed(self, data: bytes | bytearray) -> str:
        return self._redactor.feed(self._decoder.decode(data))

    def finish(self) -> str:
        return self._redactor.feed(self._decoder.decode(b"", final=True)) + self._redactor.finish()
