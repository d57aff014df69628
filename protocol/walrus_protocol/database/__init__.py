"""The file format of walrus.db, for both programs: walrusd writes it, walrusctl reads it. Standard library only."""
