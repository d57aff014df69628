"""Runs heartbeats: decides when agents are woken, and records every tick in a ledger."""
