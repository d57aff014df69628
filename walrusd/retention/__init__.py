"""Decides what may be deleted from the store and when, and deletes it."""
