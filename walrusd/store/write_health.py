"""How the last write went: what only refused requests have met is to be seen before the next one meets it."""

import structlog

from walrusd.store.contract import StorageFailed

log = structlog.get_logger("walrusd")


class WriteHealth:
    """Belongs to trio's thread. It keeps words and no exception, which would keep the write that failed."""

    def __init__(self) -> None:
        self.warning = ""
        """What a person should know of it; empty where it went well."""

    def succeeded(self) -> None:
        if self.warning:
            log.info("the log can be written again")
            self.warning = ""

    def failed(self, failure: StorageFailed) -> None:
        if not self.warning:
            log.warning("the log cannot be written", error=str(failure), hint=failure.hint)
        self.warning = f"The last write to the log failed: {failure}. {failure.hint}"
