"""A process that opens a database of version 1, and dies (see `deaths`)."""

import sys
from functools import partial
from pathlib import Path

import structlog

from tests.fakes.deaths import die_at_every_step
from tests.fakes.stores import SqliteDisk
from tests.store.old_database import leave


async def live(folder: Path) -> None:
    log = await SqliteDisk(folder).open()
    await log.aclose()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the number alone goes to stdout
    die_at_every_step(live, prepare=partial(leave, 1))
