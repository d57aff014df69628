"""How the last write went: what only refused requests have met is to be seen before the next one meets it."""

import structlog

from walrusd.store.log import StorageFailed

log = structlog.get_logger("walrusd")


class LastWrite:
    """Belongs to trio's thread. It keeps words and no exception, which would keep the write that failed."""

    def __init__(self) -> None:
        self.trouble = ""
        """What a person should know of it; empty where it went well."""

    def went_well(self) -> None:
        if self.trouble:
            log.info("the log can be written again")
            self.trouble = ""

    def failed(self, failure: StorageFailed) -> None:
        if not self.trouble:
            log.warning("the log cannot be written", error=str(failure), hint=failure.hint)
        self.trouble = f"The last write to the log failed: {failure}. {failure.hint}"
