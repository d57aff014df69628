"""The steps by which a database comes to today's tables. A step that was released is never edited: add the next one."""

from collections.abc import Callable

import apsw

from walrusd.store.migrations.m001_log import m001_log
from walrusd.store.migrations.m002_daemon import m002_daemon
from walrusd.store.migrations.m003_search import m003_search
from walrusd.store.migrations.m004_space import m004_space

MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (
    m001_log,
    m002_daemon,
    m003_search,
    m004_space,
)
"""In order; `user_version` counts those that are done."""


def migrate(db: apsw.Connection) -> None:
    """Run what is missing: all of it or nothing, so that there is no version between of which a copy would be kept."""
    if missing := MIGRATIONS[schema_version(db) :]:
        with db:
            for step in missing:
                step(db)
            db.pragma("user_version", len(MIGRATIONS))


def schema_version(db: apsw.Connection) -> int:
    version = db.pragma("user_version")
    assert isinstance(version, int)
    return version
