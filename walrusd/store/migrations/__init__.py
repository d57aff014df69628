"""The steps by which a database comes to today's tables. A step that was released is never edited: add the next one."""

from collections.abc import Callable

import apsw

from walrusd.store.migrations.m001_log import m001_log
from walrusd.store.migrations.m002_daemon import m002_daemon

MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (m001_log, m002_daemon)
"""In order; `user_version` counts those that are done."""


def migrate(db: apsw.Connection) -> None:
    """Run what is missing, each step whole or not at all."""
    for version, step in enumerate(MIGRATIONS, start=1):
        if version > schema_version(db):
            with db:
                step(db)
                db.pragma("user_version", version)


def schema_version(db: apsw.Connection) -> int:
    version = db.pragma("user_version")
    assert isinstance(version, int)
    return version
