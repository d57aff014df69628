"""The command line: a thin client of the daemon, with one module for each noun. It starts fast."""
