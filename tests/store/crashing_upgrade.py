"""A process that opens a database of version 1, and dies (see `deaths`)."""

from pathlib import Path

from tests.fakes.deaths import die_at_every_step
from tests.fakes.stores import SqliteDisk
from tests.store.old_database import leave_version_1


async def live(folder: Path) -> None:
    log = await SqliteDisk(folder).open()
    await log.aclose()


if __name__ == "__main__":
    die_at_every_step(live, prepare=leave_version_1)
