"""While the chain is on, the writer adds a link for each event, whichever writes fail."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.stores import SqliteDisk, commit, submit_all, write
from walrus_protocol.database.hash_chain import INITIAL_LINK, ChainHead, compute_link, hash_body
from walrus_protocol.database.schema import DAEMON_SESSION, MAX_DAEMON_EVENTS, SESSIONS_EXPIRED_PREFIX
from walrus_protocol.database.verify_chain import ChainSegment, ChainVerdict, verify
from walrusd.session.session_state import SessionState
from walrusd.store.errors import StorageFull
from walrusd.store.expiry import ExpireSession
from walrusd.store.hash_chain import store_digests, unlisted_sessions

LONG = b'{"type":"user_message","content":"%s"}' % (b"very long " * 2000)


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path, chain=True)


async def test_each_event_is_linked_to_the_one_before_it_across_sessions(disk: SqliteDisk) -> None:
    log = await disk.open()
    assert log.chain_head == ChainHead(0, INITIAL_LINK)
    await commit(
        log,
        write(session=1, bodies=[b"a", LONG], first_seq=1),
        write(session=2, bodies=[b"b"], first_seq=1),
        write(session=1, bodies=[b"c"], first_seq=3),
        write(session=DAEMON_SESSION, bodies=[b"d"], first_seq=1),
    )
    events = [(1, 1, b"a"), (1, 2, LONG), (2, 1, b"b"), (1, 3, b"c"), (DAEMON_SESSION, 1, b"d")]
    links, link = [], INITIAL_LINK
    for offset, (session, seq, body) in enumerate(events, 1):
        link = compute_link(link, offset, session, seq, hash_body(body))
        links.append((offset, link, None, None, None))
    await log.aclose()
    assert query(disk, "SELECT * FROM link") == links
    assert log.chain_head == ChainHead(5, link)


async def test_a_restart_continues_the_chain_and_switching_it_off_and_on_starts_a_new_one(disk: SqliteDisk) -> None:
    disk.chain = False
    await write_once(disk, 1)
    assert verify(disk.path) == ChainVerdict(())
    disk.chain = True
    await write_once(disk, 2)
    await write_once(disk, 3)
    disk.chain = False
    await write_once(disk, 4)
    await write_once(disk, 5)
    disk.chain = True
    await write_once(disk, 6)
    verdict = verify(disk.path)
    assert verdict == ChainVerdict((ChainSegment(2, 3, False), ChainSegment(6, 6, True)), verdict.head, 3)
    assert query(disk, "SELECT offset FROM link") == [(2,), (3,), (6,)]


async def write_once(disk: SqliteDisk, session: int) -> None:
    log = await disk.open()
    await commit(log, write(session=session, bodies=[b"{}"], first_seq=1))
    await log.aclose()


async def test_a_segment_in_which_nothing_was_written_is_not_reported(disk: SqliteDisk) -> None:
    for chain in (True, True, False, False, True, False):
        disk.chain = chain
        await (await disk.open()).aclose()
    assert verify(disk.path) == ChainVerdict(())
    assert query(disk, "SELECT name FROM counter WHERE name LIKE 'chain%'") == []


async def test_a_failed_batch_leaves_the_chain_valid(disk: SqliteDisk) -> None:
    full = False

    def before(step: str, _: str) -> None:
        if full and step == "write":
            raise OSError(errno.ENOSPC, "no space left")

    with fault_injecting_vfs(before):
        log = await disk.open()
        await commit(log, write(session=1, bodies=[b"a"], first_seq=1))
        full = True
        failed = await submit_all(log, *(write(session=n, bodies=[b"lost"], first_seq=1) for n in (2, 3)))
        assert [type(outcome) for outcome in failed] == [StorageFull, StorageFull]
        full = False
        twice = await submit_all(
            log, write(session=1, bodies=[b"twice"], first_seq=1), write(session=1, bodies=[b"b"], first_seq=2)
        )
        assert [isinstance(outcome, Exception) for outcome in twice] == [True, False]
        await log.aclose()
    assert verify(disk.path) == ChainVerdict((ChainSegment(1, 2, True),), log.chain_head, 2)


async def test_a_large_log_is_verified_page_by_page_during_writes_and_deletions(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, *(write(session=session, bodies=[b"{}"] * 100, first_seq=1) for session in range(1, 31)))
    all_deleted = trio.Event()

    async def delete_sessions() -> None:
        for session in range(1, 31):
            event = SESSIONS_EXPIRED_PREFIX.encode() + b'"sessions":[%d]}' % session
            await commit(
                log,
                write(session=DAEMON_SESSION, bodies=[event], first_seq=session, mutations=[ExpireSession(session)]),
            )
            await log.sweep()
            await trio.lowlevel.checkpoint()
        all_deleted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete_sessions)
        while not all_deleted.is_set():
            verdict = await verify_in_process(disk)
            assert verdict["tampered"] is None
            assert verdict["events"] >= 3000
    await log.aclose()
    assert verify(disk.path) == ChainVerdict((ChainSegment(1, 3030, True),), log.chain_head, 3030, 3000)


async def verify_in_process(disk: SqliteDisk) -> dict[str, Any]:
    """Verifies in a separate process: two builds of SQLite in one process drop each other's locks."""
    program = str(Path(sys.executable).with_name("walrusctl"))
    command = [program, "--home", str(disk.folder), "verify", "--json"]
    verdict: dict[str, Any] = json.loads((await trio.run_process(command, capture_stdout=True)).stdout)
    return verdict


async def test_a_deleted_event_leaves_its_digest_in_the_chain(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, bodies=[b"a", LONG], first_seq=1), write(session=2, bodies=[b"b"], first_seq=1))
    await log.aclose()
    db = apsw.Connection(disk.path)
    store_digests(db, [2, 3, 99])
    db.close()
    assert query(disk, "SELECT session, seq, digest FROM link") == [
        (None, None, None),
        (1, 2, hash_body(LONG)),
        (2, 1, hash_body(b"b")),
    ]


async def test_unlisted_sessions_are_reported_until_a_daemon_event_names_them(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(
        log, write(session=7, session_state=SessionState(id=7, state="idle", last_seq=1), bodies=[b"{}"], first_seq=1)
    )
    await log.aclose()
    db = apsw.Connection(disk.path)
    db.execute("INSERT INTO remains VALUES (1), (2), (3), (4), (5)")
    # 7 inherits from 2 and 1; no listed session inherits from 3.
    db.execute("INSERT INTO fork VALUES (7, 2, 1), (2, 1, 1), (4, 3, 1)")
    assert unlisted_sessions(db, importing_sessions={5}) == [3, 4]
    event = SESSIONS_EXPIRED_PREFIX.encode() + b'"sessions":[4]}'
    db.execute("INSERT INTO event (session, seq, body) VALUES (0, 1, ?)", (event,))
    assert unlisted_sessions(db, importing_sessions=()) == [3, 5]
    db.execute("DELETE FROM link")
    assert unlisted_sessions(db, importing_sessions=()) == []
    db.close()


async def test_old_daemon_events_are_deleted_except_those_that_record_deletions(disk: SqliteDisk) -> None:
    expired = SESSIONS_EXPIRED_PREFIX.encode() + b'"sessions":[7]}'
    log = await disk.open()
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"{}", expired, b"{}"], first_seq=1))
    await commit(log, write(session=DAEMON_SESSION, bodies=[b"{}"] * 3, first_seq=MAX_DAEMON_EVENTS + 1))
    await log.aclose()
    assert query(disk, "SELECT seq FROM event") == [(2,), *((MAX_DAEMON_EVENTS + number,) for number in (1, 2, 3))]
    assert verify(disk.path) == ChainVerdict((ChainSegment(1, 6, True),), log.chain_head, 6, 2)


def query(disk: SqliteDisk, sql: str) -> list[tuple[object, ...]]:
    db = apsw.Connection(disk.path, apsw.SQLITE_OPEN_READONLY)
    rows = [tuple(row) for row in db.execute(sql)]
    db.close()
    return rows
