"""Everything of the daemon that touches the operating system: processes, signals, systemd, clocks and limits."""
