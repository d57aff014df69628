"""TABLES describes the whole schema: what it lacks would be missed by a deletion or could not be written."""

from pathlib import Path

import pytest

from tests.fakes.stores import SqliteDisk, commit, write
from tests.store.crashing_writer import numbered_write
from walrus_protocol.database import schema
from walrus_protocol.database.schema import DAEMON_SESSION
from walrus_protocol.events import Parent
from walrusd.session.session_state import SessionState
from walrusd.store.database import open_for_reading
from walrusd.store.expiry import ExpireSession
from walrusd.store.tables import TABLES
from walrusd.store.tables.table import Mutation
from walrusd.store.write_batch import MUTATIONS

SESSION = 1
TABLES_WITH_SESSION = {table.name for table in TABLES if table.session_column}


@pytest.fixture
def sqlite_disk(tmp_path: Path) -> SqliteDisk:
    return SqliteDisk(tmp_path)


def tables_with_rows_of_session(disk: SqliteDisk) -> set[str]:
    db = open_for_reading(disk.path)
    found = {
        table.name
        for table in TABLES
        if table.session_column
        and db.execute(f"SELECT 1 FROM {table.name} WHERE {table.session_column} = ?", (SESSION,)).get
    }
    db.close()
    return found


def test_every_table_of_the_schema_is_described() -> None:
    assert {table.name for table in TABLES} == schema.TABLES.keys()
    assert all(table.session_column in schema.TABLES[table.name] for table in TABLES if table.session_column)
    deleted_otherwise = {"event", "link"}  # by `sweep`, or never: a link proves that its event was deleted
    with_session = {name for name, columns in schema.TABLES.items() if "session" in columns}
    assert with_session - deleted_otherwise <= TABLES_WITH_SESSION


def test_every_mutation_belongs_to_one_table() -> None:
    assert sorted(MUTATIONS, key=id) == sorted(Mutation.__subclasses__(), key=id)


async def test_no_table_keeps_rows_of_a_deleted_session(sqlite_disk: SqliteDisk) -> None:
    log = await sqlite_disk.open()
    one = numbered_write(SESSION, 1)
    one.session_state = SessionState(id=SESSION, state="closed", last_seq=2, parent=Parent(session=9, seq=1))
    await commit(log, one)
    assert tables_with_rows_of_session(sqlite_disk) == TABLES_WITH_SESSION - {"remains"}
    await commit(log, write(session=DAEMON_SESSION, mutations=[ExpireSession(SESSION)]))
    assert tables_with_rows_of_session(sqlite_disk) == {"fork", "remains"}
    await log.sweep()
    assert tables_with_rows_of_session(sqlite_disk) == set()
    await log.aclose()
