"""Doctor check of the space that the database uses, against the limit in walrus.toml."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from walrus_config.errors import ConfigError
from walrusctl.database_reader import describe_incompatibility, is_empty, open_read_only
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_bytes, format_duration

_RETENTION_HINT = "docs/space.md describes what is deleted, and in which order"


def check_storage_usage(context: DoctorContext) -> Iterator[Check]:
    """Compares usage and limit; a database that cannot be read is reported by the check `database`."""
    path = context.paths.database
    if isinstance(context.config, ConfigError) or not os.path.exists(path):
        return
    try:
        with closing(open_read_only(path)) as db:
            if is_empty(db) or describe_incompatibility(db, path):
                return
            [[page]], [[pages]], [[free]] = (
                db.execute(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count")
            )
    except sqlite3.Error:
        return
    used, storage = (pages - free) * page, context.config.storage
    days, limit = storage.retain_closed_days, storage.max_db_bytes
    retention = f"closed sessions are kept {'forever' if days is None else 'for ' + format_duration(days * 86_400)}"
    usage = f"{format_bytes(used)} used, {format_bytes(free * page)} free in the file"
    if limit is None:
        yield Check("space", "ok", f"{usage}; {retention}")
    elif used <= limit:
        yield Check("space", "ok", f"{usage}, {format_bytes(limit)} allowed; {retention}")
    else:
        message = f"{usage}, but storage.max_db_bytes allows {format_bytes(limit)}"
        hint = f"walrusd deletes what it may; the rest belongs to open sessions: close some. {_RETENTION_HINT}"
        yield Check("space", "warning", message, hint)
