"""Turns: the inbox of messages, the workers that run turns, drafts, and the handles that callers wait on."""
