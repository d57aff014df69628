"""A process that opens a database of version 1, and is killed at every step (see `fork_and_kill`)."""

import sys
from functools import partial
from pathlib import Path

import structlog

from tests.fakes.fork_and_kill import kill_at_every_step
from tests.fakes.stores import SqliteDisk
from tests.store.old_database import create


async def upgrade(folder: Path) -> None:
    log = await SqliteDisk(folder).open()
    await log.aclose()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is only for the number
    kill_at_every_step(upgrade, prepare=partial(create, 1))
