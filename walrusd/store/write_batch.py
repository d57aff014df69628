"""Writes a batch: the events with everything derived from them, the rows of the sessions, and the mutations.

Rows of a kind are inserted by one statement for the whole batch.
"""

from collections.abc import Sequence

import apsw

from walrus_protocol.database.schema import DAEMON_SESSION, MAX_DAEMON_EVENTS
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Write
from walrusd.store.expiry import ExpireSession
from walrusd.store.hash_chain import Chain, store_digests
from walrusd.store.tables import TABLES, event
from walrusd.store.tables.searchable_text import INSERT as INSERT_SEARCHABLE_TEXT
from walrusd.store.tables.searchable_text import isolate_characters, searchable_text
from walrusd.store.tables.session import INSERT_FORK, put_states
from walrusd.store.tables.table import Mutation, SqlRow

NewEvent = tuple[int, int, int, bytes]
"""The offset, the session, the seq and the whole body of an event."""
MUTATIONS = (*(mutation for table in TABLES for mutation in table.mutations), ExpireSession)
"""All kinds of mutations, in the order in which those of a batch are made."""
_ORDER = {mutation: place for place, mutation in enumerate(MUTATIONS)}


def insert_batch(db: apsw.Connection, batch: Sequence[Write], first_offset: int, hash_chain: Chain | None) -> None:
    """Writes all rows of a batch; the bodies get offsets from `first_offset` on. Raises apsw.Error."""
    for part in _split_by_session(batch):
        first_offset = _write_events(db, part, first_offset, hash_chain)
        _write_session_rows(db, part)
        _write_mutations(db, part)


def _split_by_session(batch: Sequence[Write]) -> Sequence[Sequence[Write]]:
    """Splits the batch into parts without two writes of one session, so that its writes are made in order.

    A daemon write is a part of its own: it may change the rows of any session.
    """
    parts: list[list[Write]] = [[]]
    sessions: set[int] = set()
    for write in batch:
        if sessions and (write.session in sessions or write.session == DAEMON_SESSION or DAEMON_SESSION in sessions):
            parts.append([])
            sessions.clear()
        sessions.add(write.session)
        parts[-1].append(write)
    return parts


def _write_events(db: apsw.Connection, part: Sequence[Write], offset: int, hash_chain: Chain | None) -> int:
    """Inserts the events of a part, and returns the offset after the last one."""
    events: list[NewEvent] = []
    searchable_texts: list[SqlRow] = []
    for write in part:
        for seq, body in enumerate(write.bodies, write.first_seq):
            events.append((offset, write.session, seq, body))
            if write.searchable and (found := searchable_text(body)):
                searchable_texts.append((offset, isolate_characters(found.text)))
            offset += 1
    if events:
        _insert_events(db, events, hash_chain)
    if searchable_texts:
        INSERT_SEARCHABLE_TEXT.run(db, searchable_texts)
    return offset


def _insert_events(db: apsw.Connection, events: Sequence[NewEvent], hash_chain: Chain | None) -> None:
    rows: list[SqlRow] = []
    rows_with_text: list[SqlRow] = []
    texts: list[SqlRow] = []
    for row in events:
        if len(row[3]) >= event.MIN_BODY_BYTES and (detached := event.detach(row[3])):
            digest = detached.digest
            texts.append((digest, detached.text))
            rows_with_text.append((*row[:3], detached.rest, digest, detached.position))
        else:
            rows.append(row)
    event.INSERT.run(db, rows)
    if texts:
        event.INSERT_TEXT.run(db, texts)
        event.INSERT_WITH_TEXT.run(db, rows_with_text)
    if hash_chain:
        event.INSERT_LINK.run(db, hash_chain.link_events(events))
    _, session, first_seq, _ = events[0]
    if session == DAEMON_SESSION:
        _prune_daemon_events(db, first_seq - MAX_DAEMON_EVENTS, events[-1][2] - MAX_DAEMON_EVENTS)


def _prune_daemon_events(db: apsw.Connection, first_seq: int, last_seq: int) -> None:
    """Deletes the daemon events in a range of seqs: as many as were added.

    Older ones are deleted already.
    """
    if last_seq > 0 and (
        offsets := [offset for (offset,) in db.execute(event.OLD_DAEMON_EVENTS, (first_seq, last_seq))]
    ):
        store_digests(db, offsets)
        db.executemany(event.DELETE, [(offset,) for offset in offsets])


def _write_session_rows(db: apsw.Connection, part: Sequence[Write]) -> None:
    states: list[SessionState] = []
    forks: list[SqlRow] = []
    for write in part:
        if state := write.session_state:
            states.append(state)
            if write.first_seq == 1 and state.parent:
                forks.append((state.id, state.parent.session, state.parent.seq))
    if states:
        put_states(db, states)
    if forks:
        INSERT_FORK.run(db, forks)


def _write_mutations(db: apsw.Connection, part: Sequence[Write]) -> None:
    changes: dict[type[Mutation], list[tuple[int, Mutation]]] = {}
    for write in part:
        for mutation in write.mutations:
            changes.setdefault(type(mutation), []).append((write.session, mutation))
    for kind in sorted(changes, key=_ORDER.__getitem__):
        kind.write(db, changes[kind])
