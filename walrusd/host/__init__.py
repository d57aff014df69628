"""What touches the operating system: processes, signals, systemd, clocks, limits."""
