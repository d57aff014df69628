"""Turns: the inbox of messages, workers that run turns, drafts, and handles that callers wait on."""
