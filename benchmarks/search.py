"""A search over a million messages; and the start at which a store from before there was a search is indexed."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, chain, count, islice
from pathlib import Path
from statistics import quantiles

import apsw

from benchmarks.children import make_home, walrusd
from benchmarks.setup import Setup
from benchmarks.table import Measurement, ms, p50
from benchmarks.wire import RawConnection
from walrus_protocol.events import AssistantMessage, UserMessage, encode
from walrusd.session import session_state
from walrusd.session.session_state import SessionState
from walrusd.store.database import open_for_reading
from walrusd.store.migrations import MIGRATIONS, migrate
from walrusd.store.tokenizer import query_terms

MESSAGES = 1_000_000
MESSAGES_PER_SESSION = 1_000
QUERIES = 100
"""Of each kind."""
VOCABULARY = 60_000
LENGTHS = (8, 12, 20, 30, 60, 100)
"""Words of a message."""
SCHEMA_BEFORE_SEARCH = 2
"""Version of the schema."""
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


class Language:
    """Made of nothing, but its words are as unlike in their frequency as those of a people: few are most of a text."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        lengths = chain.from_iterable([n] * VOCABULARY for n in (1, 2, 3, 4))
        made = ("".join(self._random.choices(SYLLABLES, k=length)) for length in lengths)
        self.words = list(islice(dict.fromkeys(made), VOCABULARY))
        self._weights = list(accumulate(1 / (rank + 2.7) ** 1.07 for rank in range(VOCABULARY)))
        self._text_pool = self.sample_words(1_000_000)

    def sample_words(self, number: int) -> list[str]:
        """As they come in a text."""
        return self._random.choices(self.words, cum_weights=self._weights, k=number)

    def text(self, words: int | None = None) -> str:
        length = words or self._random.choice(LENGTHS)
        start = self._random.randrange(len(self._text_pool) - length)
        return " ".join(self._text_pool[start : start + length])

    def rare_word(self) -> str:
        return self._random.choice(self.words)


def run(setup: Setup) -> list[Measurement]:
    home = make_home(setup.folder / "search", setup.url)
    language, messages = Language(), setup.scale(MESSAGES)
    path = home / "walrus.db"
    took = _seed_store(path, language, messages)
    kinds: dict[str, Callable[[], str]] = {
        "a word": lambda: language.sample_words(1)[0],
        "three words": lambda: " ".join(language.sample_words(3)),
        "words in a row": lambda: f'"{language.text(3)}"',
        "a rare word": language.rare_word,
        "words never together": lambda: f"{language.rare_word()} {language.rare_word()}",
        "the beginning of a word": lambda: f"{language.sample_words(1)[0][:3]}*",
    }
    asked = {kind: [make() for _ in range(setup.scale(QUERIES))] for kind, make in kinds.items()}
    with walrusd(home) as daemon:
        line = daemon.connect()
        found = {kind: [_time_search(line, query) for query in queries] for kind, queries in asked.items()}
        line.close()
    db = open_for_reading(str(path))
    floors = [_time_index_query(db, query) for queries in asked.values() for query in queries]
    db.close()
    every = list(chain.from_iterable(found.values()))
    each = ", ".join(f"{kind} {ms(p50(times))}/{ms(_p95(times))}" for kind, times in found.items())
    return [
        Measurement(
            what=f"search over {messages:,} messages, p95",
            measured=f"{ms(_p95(every))} (p50 {ms(p50(every))}, at most {ms(max(every))})",
            floor=f"{ms(_p95(floors))} the index alone",
            ratio=_p95(every) / _p95(floors),
            bar="≤ 50 ms",
            met=_p95(every) <= 0.05,
            values={"p95_s": _p95(every), "p50_s": p50(every), "max_s": max(every), "floor_p95_s": _p95(floors)},
        ),
        Measurement(
            what="of these, p50/p95", measured=each, values={kind: _p95(times) for kind, times in found.items()}
        ),
        Measurement(
            what=f"the index of {messages:,} messages, made at a start",
            measured=f"{took:.1f} s, {path.stat().st_size / 1e6:,.0f} MB with it",
            values={"made_s": took, "db_bytes": path.stat().st_size},
        ),
    ]


def _seed_store(path: Path, language: Language, messages: int) -> float:
    """A store as it was before there was a search, brought up to date: how long that took."""
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    with db:
        for step in MIGRATIONS[:SCHEMA_BEFORE_SEARCH]:
            step(db)
        db.pragma("user_version", SCHEMA_BEFORE_SEARCH)
        for first in range(0, messages, MESSAGES_PER_SESSION):
            number = first // MESSAGES_PER_SESSION + 1
            whole = SessionState(
                id=number, state="idle", agent="walrus", last_seq=MESSAGES_PER_SESSION, messages=MESSAGES_PER_SESSION
            )
            db.execute("INSERT INTO session VALUES (?, 'walrus', 'idle', 0, ?)", (number, session_state.encode(whole)))
            bodies = islice(_conversation(language, number), MESSAGES_PER_SESSION)
            rows = ((number, seq, body) for seq, body in enumerate(bodies, 1))
            db.executemany("INSERT INTO event (session, seq, body) VALUES (?, ?, ?)", rows)
    began = time.perf_counter()
    migrate(db)
    took = time.perf_counter() - began
    db.close()
    path.chmod(0o600)
    return took


def _conversation(language: Language, session: int) -> Iterator[bytes]:
    for turn in count(1):
        yield encode(UserMessage(session=session, turn=turn, ts=float(turn), content=language.text()))
        yield encode(AssistantMessage(session=session, turn=turn, ts=float(turn), round=1, content=language.text()))


def _time_search(connection: RawConnection, query: str) -> float:
    began = time.perf_counter()
    connection.call("session.search", {"query": query})
    return time.perf_counter() - began


def _time_index_query(db: apsw.Connection, query: str) -> float:
    began = time.perf_counter()
    found = "SELECT rowid FROM said WHERE said MATCH ? ORDER BY rowid DESC LIMIT 50"
    db.execute(found, (" ".join(query_terms(query)),)).fetchall()
    return time.perf_counter() - began


def _p95(times: list[float]) -> float:
    return quantiles(times, n=20)[-1]
