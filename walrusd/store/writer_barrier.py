"""A barrier in the write queue: it completes when all earlier writes have an outcome.

Serves as a health check.
"""

from walrusd.store.write_outcome import WriteOutcome


class WriterBarrier(WriteOutcome):
    """An item of the write queue that writes nothing. It fails if the writer has stopped."""
