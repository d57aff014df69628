"""A process that opens a database without root's rights and prints the error.

Root may write to every folder.
"""

import os
import sys

import trio

from walrusd.store.errors import DatabaseUnusable
from walrusd.store.sqlite import SqliteLog


async def main(path: str) -> None:
    try:
        await SqliteLog.open(path)
    except DatabaseUnusable as error:
        sys.stdout.write(f"{error}. {error.hint}")


if __name__ == "__main__":
    if os.geteuid() == 0:
        os.setuid(65534)
    trio.run(main, sys.argv[1])
