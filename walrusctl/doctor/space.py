"""The room that the log takes, held against what walrus.toml allows it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from walrus_config.problems import ConfigError
from walrusctl.database import foreign, is_empty, opened
from walrusctl.doctor.check import Check
from walrusctl.doctor.patient import Patient
from walrusctl.render import lasting, size

_KEEPS = "docs/space.md says what is thrown away, and in which order"


def look_at_space(patient: Patient) -> Iterator[Check]:
    """Nothing of a database that cannot be read: `database` tells of that."""
    path = patient.paths.database
    if isinstance(patient.config, ConfigError) or not os.path.exists(path):
        return
    try:
        with closing(opened(path)) as db:
            if is_empty(db) or foreign(db, path):
                return
            [[page]], [[pages]], [[free]] = (
                db.execute(f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count")
            )
    except sqlite3.Error:
        return
    used, storage = (pages - free) * page, patient.config.storage
    days, most = storage.retain_closed_days, storage.max_db_bytes
    kept = f"closed sessions are kept for {'ever' if days is None else lasting(days * 86_400)}"
    taken = f"{size(used)} used, {size(free * page)} free in the file"
    if most is None:
        yield Check("space", "fine", f"{taken}; {kept}")
    elif used <= most:
        yield Check("space", "fine", f"{taken}, {size(most)} allowed; {kept}")
    else:
        message = f"{taken}, and storage.max_db_bytes allows {size(most)}"
        hint = f"walrusd throws away what it may; what is left then is of open sessions: close some. {_KEEPS}"
        yield Check("space", "warning", message, hint)
