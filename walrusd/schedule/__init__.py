"""Heartbeats: when an agent wakes, the ledger of its ticks, and the breaker."""
