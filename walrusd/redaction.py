"""Stars where a known secret stands, whatever brought it there: in the log, and in what tools say."""

import re
from collections.abc import Collection

STARS = "***"
SHORTEST = 4
"""Characters of a secret that is looked for. Servers that want no key are given one like "x", and hiding that would
only make holes in every word."""

REPLACED = 64
"""Secrets that are looked for though no configuration has them any more: what still speaks of older ones has ended."""


class Redaction:
    """Call it with a whole text. A text that comes in pieces goes through a `Redacted`."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._replaced: list[str] = []
        self._now = list(secrets)
        self._look_for(secrets)

    def learn(self, secrets: Collection[str]) -> None:
        """Look for these from now on, and for those before them too: a secret that was replaced still is one."""
        replaced = [secret for secret in (*self._replaced, *self._now) if secret not in secrets]
        self._replaced, self._now = replaced[-REPLACED:], list(secrets)
        self._look_for({*self._replaced, *secrets})

    def _look_for(self, secrets: Collection[str]) -> None:
        self._known = sorted((secret for secret in secrets if len(secret) >= SHORTEST), key=len, reverse=True)
        self._longest = max(map(len, self._known), default=0)
        self._first = re.compile("|".join(sorted({re.escape(secret[0]) for secret in self._known})))

    def __call__(self, text: str) -> str:
        return "".join(self._parts(text, len(text))[0]) if self._known else text

    def decided(self, text: str) -> tuple[str, str]:
        """The text, redacted, as far as nothing that may follow can change it; and the rest, as it is."""
        if not self._known:
            return text, ""
        undecided = self._breaks_off(text, len(text) - self._longest + 1)
        parts, at = self._parts(text, undecided)
        return "".join(parts), text[at:]

    def _parts(self, text: str, undecided: int) -> tuple[list[str], int]:
        """The pieces of the text up to where it is undecided, and where that is."""
        parts: list[str] = []
        at = 0
        # One by one first: that is far faster than the pattern, and mostly there is none.
        there = sorted((secret for secret in self._known if secret in text), key=len, reverse=True)
        # Where two secrets begin at one place it finds the longer.
        any_of_them = re.compile("|".join(map(re.escape, there)))
        while there and (found := any_of_them.search(text, at)) and found.start() < undecided:
            parts += text[at : found.start()], STARS
            at = found.end()
            if at > undecided:
                undecided = self._breaks_off(text, at)
        return [*parts, text[at:undecided]], max(at, undecided)

    def _breaks_off(self, text: str, start: int) -> int:
        """Where, from `start` on, a secret begins that the text may be breaking off in; its end if nowhere."""
        for found in self._first.finditer(text, max(start, 0)):
            begun = text[found.start() :]
            if any(len(begun) < len(secret) and secret.startswith(begun) for secret in self._known):
                return found.start()
        return len(text)


class Redacted:
    """One text that comes in pieces, cut anywhere: what it gives is, put together, the whole text redacted."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be told by now. What may yet turn out to be a secret is held back."""
        said, self._held = self._redaction.decided(self._held + piece)
        return said

    def rest(self) -> str:
        """What is left when nothing more comes."""
        held, self._held = self._held, ""
        return self._redaction(held)
