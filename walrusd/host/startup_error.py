"""The error of a start that a person can fix."""

from walrus_protocol.wire import EXIT_BAD_CONFIG


class StartupFailed(Exception):
    """Raised if walrusd cannot start on this home, socket or machine; `hint` states what to do.

    `exit_status` tells a service manager whether another start may succeed.
    """

    def __init__(self, message: str, hint: str, exit_status: int = EXIT_BAD_CONFIG) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status
