"""A question among the writes, whether the store still gets through with them."""

from walrusd.store.write_outcome import WriteOutcome


class WriterBarrier(WriteOutcome):
    """Waits for its turn behind the writes that were submitted before it. Nothing is written for it.

    It fails where nobody is left to answer.
    """
