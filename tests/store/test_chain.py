"""The chain that the writer keeps: a link for each event from when it was switched on, whatever fails meanwhile."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from tests.fakes.numbered_disk import numbered_disk
from tests.fakes.stores import SqliteDisk, commit, outcomes, write
from walrus_protocol.chain import START, Head, digest, link
from walrusctl.chain import DAEMON_FACTS as KNOWN_FACTS
from walrusctl.chain import Stretch, Verdict, verify
from walrusd.session.outline import Outline
from walrusd.store.chain import keep_digests, unnamed
from walrusd.store.log import DAEMON, DAEMON_FACTS, SESSIONS_EXPIRED, StorageFull

LONG = b'{"type":"user_message","content":"%s"}' % (b"very long " * 2000)


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path, chain=True)


async def test_each_event_is_linked_to_the_one_before_it_whichever_session_it_is_of(disk: SqliteDisk) -> None:
    log = await disk.open()
    assert log.head == Head(0, START)
    await commit(
        log,
        write(session=1, bodies=[b"a", LONG], first_seq=1),
        write(session=2, bodies=[b"b"], first_seq=1),
        write(session=1, bodies=[b"c"], first_seq=3),
        write(session=DAEMON, bodies=[b"d"], first_seq=1),
    )
    events = [(1, 1, b"a"), (1, 2, LONG), (2, 1, b"b"), (1, 3, b"c"), (DAEMON, 1, b"d")]
    links, before = [], START
    for offset, (session, seq, body) in enumerate(events, 1):
        before = link(before, offset, session, seq, digest(body))
        links.append((offset, before, None, None, None))
    await log.aclose()
    assert asked(disk, "SELECT * FROM link") == links
    assert log.head == Head(5, before)


async def test_a_restart_goes_on_and_a_chain_switched_off_and_on_begins_anew(disk: SqliteDisk) -> None:
    disk.chain = False
    await written(disk, 1)
    assert verify(disk.path) == Verdict(())
    disk.chain = True
    await written(disk, 2)
    await written(disk, 3)
    disk.chain = False
    await written(disk, 4)
    await written(disk, 5)
    disk.chain = True
    await written(disk, 6)
    verdict = verify(disk.path)
    assert verdict == Verdict((Stretch(2, 3, False), Stretch(6, 6, True)), verdict.head, 3)
    assert asked(disk, "SELECT offset FROM link") == [(2,), (3,), (6,)]


async def written(disk: SqliteDisk, session: int) -> None:
    log = await disk.open()
    await commit(log, write(session=session, bodies=[b"{}"], first_seq=1))
    await log.aclose()


async def test_a_stretch_in_which_nothing_was_written_is_none(disk: SqliteDisk) -> None:
    for chain in (True, True, False, False, True, False):
        disk.chain = chain
        await (await disk.open()).aclose()
    assert verify(disk.path) == Verdict(())
    assert asked(disk, "SELECT name FROM counter WHERE name LIKE 'chain%'") == []


async def test_a_batch_that_failed_leaves_the_chain_whole(disk: SqliteDisk) -> None:
    full = False

    def before(step: str, _: str) -> None:
        if full and step == "write":
            raise OSError(errno.ENOSPC, "no room")

    with numbered_disk(before):
        log = await disk.open()
        await commit(log, write(session=1, bodies=[b"a"], first_seq=1))
        full = True
        failed = await outcomes(log, *(write(session=n, bodies=[b"lost"], first_seq=1) for n in (2, 3)))
        assert [type(outcome) for outcome in failed] == [StorageFull, StorageFull]
        full = False
        twice = await outcomes(
            log, write(session=1, bodies=[b"twice"], first_seq=1), write(session=1, bodies=[b"b"], first_seq=2)
        )
        assert [isinstance(outcome, Exception) for outcome in twice] == [True, False]
        await log.aclose()
    assert verify(disk.path) == Verdict((Stretch(1, 2, True),), log.head, 2)


async def test_a_large_log_is_proved_page_by_page_while_it_is_written_and_thrown_away(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, *(write(session=session, bodies=[b"{}"] * 100, first_seq=1) for session in range(1, 31)))
    thrown_away = trio.Event()

    async def go_on() -> None:
        for session in range(1, 31):
            fact = SESSIONS_EXPIRED + b'"sessions":[%d]}' % session
            await commit(log, write(session=DAEMON, bodies=[fact], first_seq=session, expired=[session]))
            await log.sweep()
            await trio.lowlevel.checkpoint()
        thrown_away.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        while not thrown_away.is_set():
            verdict = await proved_by_another(disk)
            assert verdict["tampered"] is None
            assert verdict["events"] >= 3000
    await log.aclose()
    assert verify(disk.path) == Verdict((Stretch(1, 3030, True),), log.head, 3030, 3000)


async def proved_by_another(disk: SqliteDisk) -> dict[str, Any]:
    """In a process of its own: two builds of SQLite in one process take each other's locks away."""
    command = str(Path(sys.executable).with_name("walrusctl"))
    asked = [command, "--home", str(disk.folder), "verify", "--json"]
    told: dict[str, Any] = json.loads((await trio.run_process(asked, capture_stdout=True)).stdout)
    return told


async def test_what_is_thrown_away_leaves_what_its_link_was_made_of(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=1, bodies=[b"a", LONG], first_seq=1), write(session=2, bodies=[b"b"], first_seq=1))
    await log.aclose()
    db = apsw.Connection(disk.path)
    keep_digests(db, [2, 3, 99])
    db.close()
    assert asked(disk, "SELECT session, seq, digest FROM link") == [
        (None, None, None),
        (1, 2, digest(LONG)),
        (2, 1, digest(b"b")),
    ]


async def test_what_is_swept_and_was_never_listed_is_told_until_a_fact_names_it(disk: SqliteDisk) -> None:
    log = await disk.open()
    await commit(log, write(session=7, outline=Outline(id=7, state="idle", last_seq=1), bodies=[b"{}"], first_seq=1))
    await log.aclose()
    db = apsw.Connection(disk.path)
    db.execute("INSERT INTO remains VALUES (1), (2), (3), (4), (5)")
    db.execute("INSERT INTO fork VALUES (7, 2, 1), (2, 1, 1), (4, 3, 1)")  # 7 reads on in 2 and 1; nobody reads 3
    assert unnamed(db, importing={5}) == [3, 4]
    fact = SESSIONS_EXPIRED + b'"sessions":[4]}'
    db.execute("INSERT INTO event (session, seq, body) VALUES (0, 1, ?)", (fact,))
    assert unnamed(db, importing=()) == [3, 5]
    db.execute("DELETE FROM link")
    assert unnamed(db, importing=()) == []
    db.close()


async def test_old_facts_of_the_daemon_go_and_those_stay_that_tell_what_was_thrown_away(disk: SqliteDisk) -> None:
    assert KNOWN_FACTS == DAEMON_FACTS
    expired = SESSIONS_EXPIRED + b'"sessions":[7]}'
    log = await disk.open()
    await commit(log, write(session=DAEMON, bodies=[b"{}", expired, b"{}"], first_seq=1))
    await commit(log, write(session=DAEMON, bodies=[b"{}"] * 3, first_seq=DAEMON_FACTS + 1))
    await log.aclose()
    assert asked(disk, "SELECT seq FROM event") == [(2,), *((DAEMON_FACTS + number,) for number in (1, 2, 3))]
    assert verify(disk.path) == Verdict((Stretch(1, 6, True),), log.head, 6, 2)


def asked(disk: SqliteDisk, question: str) -> list[tuple[object, ...]]:
    db = apsw.Connection(disk.path, apsw.SQLITE_OPEN_READONLY)
    rows = [tuple(row) for row in db.execute(question)]
    db.close()
    return rows
