"""The description of the file format in walrus_protocol equals a database after all migrations."""

import os
import random
from pathlib import Path

import apsw
import pytest

from tests.fakes.stores import SqliteDisk, commit, write
from walrus_protocol.database import schema
from walrus_protocol.database.reader import DatabaseReader, DatabaseUnreadable
from walrusd.store.migrations import MIGRATIONS


@pytest.fixture
def disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


async def test_tables_and_columns_are_those_after_the_newest_migration(disk: SqliteDisk) -> None:
    await (await disk.open()).aclose()
    db = apsw.Connection(disk.path, apsw.SQLITE_OPEN_READONLY)
    tables = """SELECT name FROM pragma_table_list
        WHERE schema = 'main' AND type IN ('table', 'virtual') AND name NOT GLOB 'sqlite_*'"""
    found = {
        name: tuple(column for (column,) in db.execute("SELECT name FROM pragma_table_info(?)", (name,)))
        for (name,) in db.execute(tables)
    }
    assert found == schema.TABLES
    assert (db.pragma("application_id"), db.pragma("user_version")) == (schema.APPLICATION_ID, schema.SCHEMA_VERSION)
    db.close()
    assert len(MIGRATIONS) == schema.SCHEMA_VERSION


async def test_the_reader_joins_any_body_with_its_detached_text(disk: SqliteDisk) -> None:
    texts = [random.Random(seed).randbytes(5000).replace(b'"', b"").replace(b"\\", b"") for seed in range(20)]
    bodies = [b'{"a":"%s","b":1}' % text for text in texts]
    await write_events(disk, 1, bodies)
    with DatabaseReader(disk.path) as db:
        rows = [*db.rows(f"SELECT {schema.FULL_BODY}, {schema.FULL_BODY_SIZE}, text IS NULL FROM event ORDER BY seq")]
    assert rows == [(body, len(body), 0) for body in bodies]


async def test_the_reader_returns_the_time_of_the_last_event_and_the_space(disk: SqliteDisk) -> None:
    await write_events(disk, 1, [b'{"ts":1.5}', b'{"ts":2}'])
    with DatabaseReader(disk.path) as db:
        assert db.newest_event_time() == 2.0
        assert sum(db.space()) == os.stat(disk.path).st_size
    await write_events(disk, 2, [b"not JSON"])
    with DatabaseReader(disk.path) as db, pytest.raises(DatabaseUnreadable, match="malformed JSON"):
        db.newest_event_time()


async def write_events(disk: SqliteDisk, session: int, bodies: list[bytes]) -> None:
    log = await disk.open()
    await commit(log, write(session=session, bodies=bodies, first_seq=1))
    await log.aclose()
