"""Doctor check of the space that the database uses, against the limit in walrus.toml."""

from collections.abc import Iterator

from walrus_config.errors import ConfigError
from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext
from walrusctl.formatting import format_bytes, format_duration

_RETENTION_HINT = "docs/space.md describes what is deleted, and in which order"


def check_storage_usage(context: DoctorContext) -> Iterator[Finding]:
    """Compares usage and limit; a database that cannot be read is reported by the check `database`."""
    if isinstance(context.config, ConfigError):
        return
    try:
        with DatabaseReader(context.paths.database) as db:
            if db.is_empty or db.incompatibility():
                return
            used, free = db.space()
    except DatabaseUnreadable:
        return
    storage = context.config.storage
    days, limit = storage.retain_closed_days, storage.max_db_bytes
    retention = f"closed sessions are kept {'forever' if days is None else 'for ' + format_duration(days * 86_400)}"
    usage = f"{format_bytes(used)} used, {format_bytes(free)} free in the file"
    if limit is None:
        yield Finding("ok", f"{usage}; {retention}")
    elif used <= limit:
        yield Finding("ok", f"{usage}, {format_bytes(limit)} allowed; {retention}")
    else:
        message = f"{usage}, but storage.max_db_bytes allows {format_bytes(limit)}"
        hint = f"walrusd deletes what it may; the rest belongs to open sessions: close some. {_RETENTION_HINT}"
        yield Finding("warning", message, hint)
