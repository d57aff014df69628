"""The daemon's log on stderr: one canonical line for each turn and request, without their content."""

import logging
import os
import select
import sys
import time
from contextlib import suppress

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from walrus_config.schema import Config
from walrus_protocol.events import AnyEvent, Done
from walrusd.host.resource_limits import hint_for_oserror
from walrusd.observability.redaction import Redaction
from walrusd.observability.secrets import collect_secrets

WRITE_TIMEOUT_MS = 100
"""Maximum milliseconds to wait for the reader of a full pipe before a line is dropped."""
ACCEPT_WARNING_INTERVAL_S = 60.0
"""Minimum seconds between two log lines about failed accepts; trio retries ten times a second."""
daemon_log = structlog.get_logger("walrusd")
turn_log = structlog.get_logger("walrusd.turn")


def configure_logging(config: Config) -> Redaction:
    """Sets up structlog for the process; returns its redaction, which accepts more secrets later.

    The log format `auto` means the console format on a terminal, and JSON elsewhere.
    """
    settings, redact = config.daemon, Redaction(collect_secrets(config))
    stderr = NonBlockingStderr()
    human = settings.log_format == "console" or (settings.log_format == "auto" and stderr.is_terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stderr.is_terminal, exception_formatter=structlog.dev.plain_traceback)
        if human
        else structlog.processors.JSONRenderer()
    )

    def redact_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        text = "\n".join(map(str, event.values()))
        if redact(text) == text:
            return event  # as nearly every line: looked at as a whole, not value by value
        return {name: redact(value) if isinstance(value, str) else value for name, value in event.items()}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not human, key="ts" if not human else "timestamp"),
            structlog.processors.format_exc_info,  # before redacting: a traceback may quote a secret
            redact_values,
            renderer,
        ],
        logger_factory=lambda *_: stderr,
        cache_logger_on_first_use=False,  # costs a microsecond for each line, and the level may change
    )
    set_log_level(settings.log_level)
    accept_logger = logging.getLogger("trio.serve_listeners")
    accept_logger.handlers, accept_logger.propagate = [AcceptErrorHandler()], False
    return redact


def set_log_level(level: str) -> None:
    """Logs lines of this level and above from now on, and drops others."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))


class AcceptErrorHandler(logging.Handler):
    """Replaces trio's traceback for each connection that cannot be accepted by one log line a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at = -ACCEPT_WARNING_INTERVAL_S

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._logged_at >= ACCEPT_WARNING_INTERVAL_S:
            self._logged_at = time.monotonic()
            error = record.exc_info[1] if record.exc_info else None
            hint = hint_for_oserror(error) if isinstance(error, OSError) else ""
            daemon_log.warning("accept_failed", error=str(error), hint=hint)


class NonBlockingStderr:
    """A logger for structlog that never raises: a closed terminal or a full disk must do no harm.

    A line that cannot be written is dropped: otherwise a reader that has stopped (a terminal after Ctrl-S, a `less`)
    would block the event loop. It gets WRITE_TIMEOUT_MS once, and no more time until it reads again. Lines bypass the
    buffer of sys.stderr, which would keep a failed line and fail again at the exit.
    """

    def __init__(self) -> None:
        # None if the process was started without stderr; descriptor 2 may then be any other file.
        self._fd = -1 if sys.__stderr__ is None else sys.__stderr__.fileno()
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd)
        self._timeout_ms = WRITE_TIMEOUT_MS

    def msg(self, line: str) -> None:
        unwritten = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while unwritten and self._wait_writable():
                # A pipe that poll reports as writable accepts PIPE_BUF bytes without blocking.
                unwritten = unwritten[os.write(self._fd, unwritten[: select.PIPE_BUF]) :]

    def _wait_writable(self) -> bool:
        if self._fd < 0:
            return False
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        is_writable = bool(poller.poll(self._timeout_ms))
        self._timeout_ms = WRITE_TIMEOUT_MS if is_writable else 0
        return is_writable

    debug = info = warning = error = critical = exception = msg


def log_turn(agent: str, event: AnyEvent) -> None:
    """Logs the canonical line of a turn when it ends: its outcome, usage and cost, but no message text."""
    if isinstance(event, Done):
        turn_log.info(
            "turn",
            session=event.session,
            turn=event.turn,
            agent=agent,
            stop_reason=event.stop_reason,
            error=event.error and event.error.kind,
            rounds=event.rounds,
            tokens_in=event.usage.input + event.usage.cache_read + event.usage.cache_write,
            tokens_out=event.usage.output,
            cost_usd=event.cost_usd,
            duration_ms=event.duration_ms,
        )
