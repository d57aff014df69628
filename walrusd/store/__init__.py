"""The durable log in SQLite: one writer thread, reader connections, migrations, search."""
