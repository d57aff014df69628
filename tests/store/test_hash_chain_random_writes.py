"""After random writes, failures and deletions, the chain is valid and doctor finds no error."""

import errno
import random
from pathlib import Path

import pytest

from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from tests.fakes.stores import SqliteDisk, commit, submit_all, write
from walrus_protocol.database.reader import DatabaseReader
from walrus_protocol.database.schema import DAEMON_SESSION, SESSIONS_EXPIRED_PREFIX
from walrus_protocol.database.verify_chain import verify
from walrusctl.doctor.check import Finding
from walrusctl.doctor.event_log import examine_log
from walrusd.session.session_state import SessionState
from walrusd.store.contract import Write
from walrusd.store.expiry import ExpireSession
from walrusd.store.sqlite import SqliteLog

TEXTS = (b"short", b"of no page " * 100, b"long " * 2000)


class RandomWrites:
    """Random writes to sessions and random deletions of them, on a disk that is full now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.last_seqs: dict[int, int] = {}
        self.sessions_created = 0
        self.daemon_events = 0
        self.failed_writes = 0
        self.disk_is_full = False

    def before_step(self, step: str, _: str) -> None:
        if self.disk_is_full and step == "write" and self.random.random() < 0.3:
            raise OSError(errno.ENOSPC, "no space left")

    async def write_batch(self, log: SqliteLog) -> None:
        self.disk_is_full = self.random.random() < 0.2
        self.sessions_created += 1
        existing = self.random.sample(sorted(self.last_seqs), min(6, len(self.last_seqs)))
        writes = [self.next_write(session) for session in (self.sessions_created, *existing)]
        for one, outcome in zip(writes, await submit_all(log, *writes), strict=True):
            if isinstance(outcome, Exception):
                self.failed_writes += 1
            else:
                self.last_seqs[one.session] = one.first_seq + len(one.bodies) - 1
        self.disk_is_full = False
        if self.last_seqs and self.random.random() < 0.2:
            await self.delete_session(log, self.random.choice(sorted(self.last_seqs)))

    def next_write(self, session: int) -> Write:
        first_seq = self.last_seqs.get(session, 0) + 1
        texts = self.random.choices(TEXTS, k=self.random.randint(1, 4))
        bodies = [b'{"type":"user_message","content":"%s"}' % text for text in texts]
        row = SessionState(id=session, state="idle", agent="a", last_seq=first_seq + len(bodies) - 1)
        return write(session=session, session_state=row, bodies=bodies, first_seq=first_seq)

    async def delete_session(self, log: SqliteLog, session: int) -> None:
        self.daemon_events += 1
        event = SESSIONS_EXPIRED_PREFIX.encode() + b'"ts":1.0,"sessions":[%d]}' % session
        await commit(
            log,
            write(
                session=DAEMON_SESSION, bodies=[event], first_seq=self.daemon_events, mutations=[ExpireSession(session)]
            ),
        )
        del self.last_seqs[session]
        if self.random.random() < 0.7:
            await log.sweep()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_log_verifies_after_random_writes_and_so_does_every_earlier_head(tmp_path: Path, seed: int) -> None:
    random_writes, disk, heads = RandomWrites(seed), SqliteDisk(tmp_path), []
    with fault_injecting_vfs(random_writes.before_step):
        for restart in range(8):
            disk.chain = restart not in (0, 4)
            log = await disk.open()
            for _ in range(30):
                await random_writes.write_batch(log)
            await log.aclose()
            assert verify(disk.path).tampering is None
            heads += [log.chain_head] if log.chain_head else []
    assert random_writes.failed_writes > 20
    for head in heads:
        verdict = verify(disk.path, since=head)
        assert (verdict.tampering, verdict.head, len(verdict.segments)) == (None, heads[-1], 2)
    assert verdict.deleted_events > 20
    with DatabaseReader(disk.path) as db:
        [finding] = examine_log(db, timeout_s=60)
    assert finding == Finding("ok", finding.message)
    assert finding.message.endswith("nothing is missing, unpaired or orphaned")
