"""The migrations of the database schema: the modules of this package, in the order of their numbers.

A released migration is never edited: add a module with the next number, and a function of the same name in it.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import apsw

Migration = Callable[[apsw.Connection], None]


def _load_migrations() -> tuple[Migration, ...]:
    names = sorted(module.name for module in iter_modules(__path__))
    return tuple(getattr(import_module(f"{__name__}.{name}"), name) for name in names)


MIGRATIONS = _load_migrations()
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
