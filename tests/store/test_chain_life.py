"""A log that lived through all that walrusd does to one has a whole chain, and nothing that the doctor would name."""

import errno
import random
from pathlib import Path

import pytest

from tests.fakes.numbered_disk import numbered_disk
from tests.fakes.stores import SqliteDisk, commit, outcomes, write
from walrusctl.chain import verify
from walrusctl.database import opened
from walrusctl.doctor.check import Check
from walrusctl.doctor.log import examined
from walrusd.session.outline import Outline
from walrusd.store.log import DAEMON, SESSIONS_EXPIRED, Write
from walrusd.store.sqlite import SqliteLog

TEXTS = (b"short", b"of no page " * 100, b"long " * 2000)


class Life:
    """Sessions that are written to, fail to be, and are thrown away, by chance; on a disk that is full now and then."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.last: dict[int, int] = {}
        self.given = 0
        self.facts = 0
        self.failed = 0
        self.full = False

    def before(self, step: str, _: str) -> None:
        if self.full and step == "write" and self.chance.random() < 0.3:
            raise OSError(errno.ENOSPC, "no room")

    async def goes_on(self, log: SqliteLog) -> None:
        self.full = self.chance.random() < 0.2
        self.given += 1
        alive = self.chance.sample(sorted(self.last), min(6, len(self.last)))
        writes = [self.said(session) for session in (self.given, *alive)]
        for one, outcome in zip(writes, await outcomes(log, *writes), strict=True):
            if isinstance(outcome, Exception):
                self.failed += 1
            else:
                self.last[one.session] = one.first_seq + len(one.bodies) - 1
        self.full = False
        if self.last and self.chance.random() < 0.2:
            await self.throws_away(log, self.chance.choice(sorted(self.last)))

    def said(self, session: int) -> Write:
        first_seq = self.last.get(session, 0) + 1
        texts = self.chance.choices(TEXTS, k=self.chance.randint(1, 4))
        bodies = [b'{"type":"user_message","content":"%s"}' % text for text in texts]
        row = Outline(id=session, state="idle", agent="a", last_seq=first_seq + len(bodies) - 1)
        return write(session=session, outline=row, bodies=bodies, first_seq=first_seq)

    async def throws_away(self, log: SqliteLog, session: int) -> None:
        self.facts += 1
        fact = SESSIONS_EXPIRED + b'"ts":1.0,"sessions":[%d]}' % session
        await commit(log, write(session=DAEMON, bodies=[fact], first_seq=self.facts, expired=[session]))
        del self.last[session]
        if self.chance.random() < 0.7:
            await log.sweep()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_log_that_lived_is_whole_and_so_is_every_head_it_had(tmp_path: Path, seed: int) -> None:
    life, disk, heads = Life(seed), SqliteDisk(tmp_path), []
    with numbered_disk(life.before):
        for restart in range(8):
            disk.chain = restart not in (0, 4)
            log = await disk.open()
            for _ in range(30):
                await life.goes_on(log)
            await log.aclose()
            assert verify(disk.path).tampered is None
            heads += [log.head] if log.head else []
    assert life.failed > 20
    for head in heads:
        verdict = verify(disk.path, since=head)
        assert (verdict.tampered, verdict.head, len(verdict.stretches)) == (None, heads[-1], 2)
    assert verdict.thrown_away > 20
    with opened(disk.path) as db:
        [check] = examined(db, within_s=60)
    db.close()
    assert check == Check("log", "fine", check.message)
    assert check.message.endswith("nothing is missing, unpaired or nobody's")
