"""The durable event store in SQLite: one writer thread, reader connections, migrations and search."""
