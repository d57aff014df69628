"""A process that writes to a log and kills itself before the n-th step on the disk, for every n until it survives.

Each n has a folder of its own, with the database and, in `acknowledged`, a line for every write that was
acknowledged by then: session, last seq, offset. Prints the n that was survived.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import trio

from tests.fakes.numbered_disk import numbered_disk
from tests.fakes.stores import SqliteDisk, commit, write
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.log import Log, Queued, Sent, Write

SESSIONS, ROUNDS = 3, 3


def fact(session: int, number: int) -> Write:
    """A write that touches every table, of two events."""
    seq = 2 * number - 1
    key = f"key {session} {number}"
    return write(
        session=session,
        outline=Outline(id=session, state="idle", last_seq=seq + 1, turns=number),
        bodies=[b"%d" % seq, b"%d" % (seq + 1)],
        first_seq=seq,
        enqueue=[Queued(place=number, kind="message")],
        dequeue=[number - 1],
        sent=[Sent(key=key, digest=b"d", turn=number)],
        turn_opened=(number, seq),
        turn_ended=(number, seq + 1),
        draft=Draft(turn=1, round=number),
        created_with=Sent(key=key, digest=b"d"),
    )


async def live(folder: Path, acknowledged: int) -> None:
    log = await SqliteDisk(folder, durability="full").open()

    async def talk(log: Log, session: int) -> None:
        for number in range(1, ROUNDS + 1):
            (offset,) = await commit(log, fact(session, number))
            os.write(acknowledged, b"%d %d %d\n" % (session, 2 * number, offset))

    async with trio.open_nursery() as nursery:
        for session in range(1, SESSIONS + 1):
            nursery.start_soon(talk, log, session)
    await log.aclose()


def live_until(step: int, folder: Path) -> None:
    steps = count(1)

    def before(_step: str, _name: str) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    folder.mkdir()
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT)
    with numbered_disk(before):
        trio.run(live, folder, acknowledged)


def main(folder: Path) -> None:
    # Forked from here for speed: the imports are paid once. Nothing runs in this process that a fork could break.
    for step in count(1):
        child = os.fork()
        if not child:
            live_until(step, folder / str(step))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.stdout.write(str(step))
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
