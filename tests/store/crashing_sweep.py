"""A process that deletes and sweeps sessions, and is killed at every step (see `fork_and_kill`)."""

import os
import shutil
import sys
from pathlib import Path

import trio

from tests.fakes.fork_and_kill import kill_at_every_step
from tests.fakes.stores import SqliteDisk, commit, write
from tests.store.fork_tree import ForkTree, body
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import Parent
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables.output import AddOutput, StoredOutput

PARENT, FORK, OTHER = 1, 2, 3
FULL_LOGS = {
    PARENT: [body(PARENT, seq, None) for seq in range(1, 7)],
    FORK: [body(PARENT, seq, None) for seq in range(1, 4)]
    + [body(FORK, seq, Parent(session=PARENT, seq=3)) for seq in range(1, 3)],
    OTHER: [body(OTHER, seq, None) for seq in range(1, 6)],
}
"""The whole log of each session, as it is read while the session is listed."""


async def fill(folder: Path) -> None:
    tree, log = ForkTree(), await SqliteDisk(folder).open()
    await tree.create_session(log, 6)
    await tree.create_session(log, 2, parent_id=PARENT, at=3)
    await tree.create_session(log, 5)
    await commit(log, write(session=OTHER, mutations=[AddOutput(StoredOutput(ref="large", body=b"x" * 1_500_000))]))
    await log.aclose()


async def delete_and_sweep(folder: Path) -> None:
    log = await SqliteDisk(folder, durability="full").open()
    await commit(
        log,
        write(
            session=DAEMON_SESSION, bodies=[b"{}"], first_seq=1, mutations=[ExpireSession(PARENT), ExpireSession(OTHER)]
        ),
    )
    await log.sweep()
    await log.aclose()


def fill_in_fork(folder: Path) -> None:
    """Fills the database in a child process.

    This process is forked later, so it must never have had threads.
    """
    folder.mkdir()
    if not (child := os.fork()):
        trio.run(fill, folder)
        os._exit(0)
    os.waitpid(child, 0)


def prepare(folder: Path) -> None:
    shutil.copy(folder.parent / "template" / "walrus.db", folder)


if __name__ == "__main__":
    fill_in_fork(Path(sys.argv[1]) / "template")
    kill_at_every_step(delete_and_sweep, prepare)
