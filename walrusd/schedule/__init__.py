"""Runs heartbeats: decides when each agent is woken, records every tick in a ledger, and has a circuit breaker."""
