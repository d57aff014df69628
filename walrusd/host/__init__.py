"""The daemon's access to the operating system: processes, signals, systemd, clocks and limits."""
