"""The room that the log takes, held against what walrus.toml allows it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from walrus_config.errors import ConfigError
from walrusctl.database_reader import describe_incompatibility, is_empty, open_read_only
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_bytes, format_duration

_RETENTION_HINT = "docs/space.md says what is thrown away, and in which order"


def check_storage_usage(context: DoctorContext) -> Iterator[Check]:
    """Nothing of a database that cannot be read: `database` tells of that."""
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
    days, most = storage.retain_closed_days, storage.max_db_bytes
    kept = f"closed sessions are kept for {'ever' if days is None else format_duration(days * 86_400)}"
    taken = f"{format_bytes(used)} used, {format_bytes(free * page)} free in the file"
    if most is None:
        yield Check("space", "fine", f"{taken}; {kept}")
    elif used <= most:
        yield Check("space", "fine", f"{taken}, {format_bytes(most)} allowed; {kept}")
    else:
        message = f"{taken}, and storage.max_db_bytes allows {format_bytes(most)}"
        hint = f"walrusd throws away what it may; what is left then is of open sessions: close some. {_RETENTION_HINT}"
        yield Check("space", "warning", message, hint)
