"""Remembers whether the last write failed, so that `status` can warn before the next request fails."""

import structlog

from walrusd.store.contract import StorageFailed

log = structlog.get_logger("walrusd")


class WriteHealth:
    """The outcome of the last write; used on trio's thread only.

    It stores a text and not the exception, which would keep the failed write in memory.
    """

    def __init__(self) -> None:
        self.warning = ""
        """A warning for the user, or "" if the last write succeeded."""

    def succeeded(self) -> None:
        if self.warning:
            log.info("log_writable")
            self.warning = ""

    def failed(self, failure: StorageFailed) -> None:
        if not self.warning:
            log.warning("log_write_failed", error=str(failure), hint=failure.hint)
        self.warning = f"The last write to the log failed: {failure}. {failure.hint}"
