"""Stars where a known secret stands, whatever brought it there: in the log, and in what tools say."""

import re
from collections.abc import Collection

MASK = "***"
MIN_SECRET_LENGTH = 4
"""Characters of a secret that is looked for. Servers that want no key are given one like "x", and hiding that would
only make holes in every word."""

MAX_RETIRED_SECRETS = 64
"""Secrets that are looked for though no configuration has them any more: what still speaks of older ones has ended."""


class Redaction:
    """Call it with a whole text. A text that comes in pieces goes through a `Redacted`."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._retired: list[str] = []
        self._current = list(secrets)
        self._compile(secrets)

    def update_secrets(self, secrets: Collection[str]) -> None:
        """Look for these from now on, and for those before them too: a secret that was replaced still is one."""
        replaced = [secret for secret in (*self._retired, *self._current) if secret not in secrets]
        self._retired, self._current = replaced[-MAX_RETIRED_SECRETS:], list(secrets)
        self._compile({*self._retired, *secrets})

    def _compile(self, secrets: Collection[str]) -> None:
        self._secrets = sorted(
            (secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH), key=len, reverse=True
        )
        self._max_length = max(map(len, self._secrets), default=0)
        self._first_character_pattern = re.compile("|".join(sorted({re.escape(secret[0]) for secret in self._secrets})))

    def __call__(self, text: str) -> str:
        return "".join(self._redact_until(text, len(text))[0]) if self._secrets else text

    def split_safe_prefix(self, text: str) -> tuple[str, str]:
        """The text, redacted, as far as nothing that may follow can change it; and the rest, as it is."""
        if not self._secrets:
            return text, ""
        undecided = self._find_partial_secret(text, len(text) - self._max_length + 1)
        parts, at = self._redact_until(text, undecided)
        return "".join(parts), text[at:]

    def _redact_until(self, text: str, safe_end: int) -> tuple[list[str], int]:
        """The pieces of the text up to where it is undecided, and where that is."""
        parts: list[str] = []
        at = 0
        # One by one first: that is far faster than the pattern, and mostly there is none.
        there = sorted((secret for secret in self._secrets if secret in text), key=len, reverse=True)
        # Where two secrets begin at one place it finds the longer.
        any_of_them = re.compile("|".join(map(re.escape, there)))
        while there and (found := any_of_them.search(text, at)) and found.start() < safe_end:
            parts += text[at : found.start()], MASK
            at = found.end()
            if at > safe_end:
                safe_end = self._find_partial_secret(text, at)
        return [*parts, text[at:safe_end]], max(at, safe_end)

    def _find_partial_secret(self, text: str, start: int) -> int:
        """Where, from `start` on, a secret begins that the text may be breaking off in; its end if nowhere."""
        for found in self._first_character_pattern.finditer(text, max(start, 0)):
            begun = text[found.start() :]
            if any(len(begun) < len(secret) and secret.startswith(begun) for secret in self._secrets):
                return found.start()
        return len(text)


class StreamingRedactor:
    """One text that comes in pieces, cut anywhere: what it gives is, put together, the whole text redacted."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._pending = ""

    def feed(self, piece: str) -> str:
        """What can be told by now. What may yet turn out to be a secret is held back."""
        said, self._pending = self._redaction.split_safe_prefix(self._pending + piece)
        return said

    def finish(self) -> str:
        """What is left when nothing more comes."""
        held, self._pending = self._pending, ""
        return self._redaction(held)
