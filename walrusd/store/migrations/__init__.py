"""The migrations of the database schema. A released migration is never edited: add a new one."""

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
"""All migrations in order; `user_version` of the database is the number of those that have run."""


def migrate(db: apsw.Connection) -> None:
    """Runs the missing migrations in one transaction.

    There is no version between: the next start would make a backup of it.
    """
    if missing := MIGRATIONS[schema_version(db) :]:
        with db:
            for step in missing:
                step(db)
            db.pragma("user_version", len(MIGRATIONS))


def schema_version(db: apsw.Connection) -> int:
    version = db.pragma("user_version")
    assert isinstance(version, int)
    return version
