"""The daemon's own log: one canonical line a turn and a request, to stderr, with no content and no secrets."""

import logging
import os
import re
import select
import sys
import time
from contextlib import suppress

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from walrus_config.schema import Config
from walrus_protocol.events import Done
from walrusd.host.resource_limits import hint_for_oserror
from walrusd.observability.redaction import Redaction

SECRET_HEADER = re.compile("auth|key|token|secret|cookie|password", re.IGNORECASE)
"""Other headers name a program or a title, and a star in the place of a word of that would spoil what tools say."""
WRITE_TIMEOUT_MS = 100
"""For the reader of the log to make room for a line."""
ACCEPT_WARNING_INTERVAL_S = 60.0
"""Between two lines about connections that cannot be taken: it is tried ten times a second."""
daemon_log = structlog.get_logger("walrusd")
turn_log = structlog.get_logger("walrusd.turn")


def configure_logging(config: Config) -> Redaction:
    """Set up structlog for the process, and answer what hides its secrets: it may learn more of them.

    `auto` is for people on a terminal, and JSON elsewhere.
    """
    settings, redact = config.daemon, Redaction(collect_secrets(config))
    stderr = NonBlockingStderr()
    human = settings.log_format == "console" or (settings.log_format == "auto" and stderr.is_terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stderr.is_terminal, exception_formatter=structlog.dev.plain_traceback)
        if human
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not human, key="ts" if not human else "timestamp"),
            structlog.processors.format_exc_info,  # before redacting: a traceback may quote a secret
            build_redaction_processor(redact),
            renderer,
        ],
        logger_factory=lambda *_: stderr,
        cache_logger_on_first_use=False,  # a microsecond a line, and the level may change
    )
    set_log_level(settings.log_level)
    accepting = logging.getLogger("trio.serve_listeners")
    accepting.handlers, accepting.propagate = [AcceptErrorHandler()], False
    return redact


def set_log_level(level: str) -> None:
    """Log what is of this level or above, from now on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))


class AcceptErrorHandler(logging.Handler):
    """What trio says, traceback and all, of each failed try to take a connection: one line of ours a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at = -ACCEPT_WARNING_INTERVAL_S

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._logged_at >= ACCEPT_WARNING_INTERVAL_S:
            self._logged_at = time.monotonic()
            error = record.exc_info[1] if record.exc_info else None
            hint = hint_for_oserror(error) if isinstance(error, OSError) else ""
            daemon_log.warning("no connection can be taken", error=str(error), hint=hint)


class NonBlockingStderr:
    """A logger for structlog that never raises: a daemon outlives its terminal, its log's reader and a full disk.

    A line that cannot be written is lost: a reader that has stopped reading (a terminal after Ctrl-S, a `less`) would
    hold the loop with it. It has PATIENCE_MS once, and then none until it reads again. Each line is one write, past the
    buffer of sys.stderr, which would keep what failed and fail again at the exit.
    """

    def __init__(self) -> None:
        # None where the process was started without one; its number may then be any other file's.
        self._fd = -1 if sys.__stderr__ is None else sys.__stderr__.fileno()
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd)
        self._timeout_ms = WRITE_TIMEOUT_MS

    def msg(self, line: str) -> None:
        said = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while said and self._wait_writable():
                # What poll promises a pipe to have room for.
                said = said[os.write(self._fd, said[: select.PIPE_BUF]) :]

    def _wait_writable(self) -> bool:
        if self._fd < 0:
            return False
        there = select.poll()
        there.register(self._fd, select.POLLOUT)
        takes = bool(there.poll(self._timeout_ms))
        self._timeout_ms = WRITE_TIMEOUT_MS if takes else 0
        return takes

    debug = info = warning = error = critical = exception = msg


def collect_secrets(config: Config) -> frozenset[str]:
    """Every secret the configuration holds: keys, what the environment gave, and headers that are named for one."""
    known: set[str] = set()
    for provider in config.providers.values():
        if provider.api_key is not None:
            known.update((provider.api_key.reveal(), *provider.api_key.parts))
        for name, header in provider.headers.items():
            known.update(header.parts)
            if SECRET_HEADER.search(name):
                # The scheme before it ("Bearer") is none: whoever prints the token alone gives it away.
                known.update((header.reveal(), *header.reveal().split()[-1:]))
    return frozenset(known)


def build_redaction_processor(redact: Redaction) -> Processor:
    """Put stars where a known secret stands, whatever brought it there."""

    def processor(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {name: redact(value) if isinstance(value, str) else value for name, value in event.items()}

    return processor


def log_turn(agent: str, done: Done) -> None:
    """The canonical line of a turn: everything about it but what was said."""
    turn_log.info(
        "turn",
        session=done.session,
        turn=done.turn,
        agent=agent,
        stop_reason=done.stop_reason,
        error=done.error and done.error.kind,
        rounds=done.rounds,
        tokens_in=done.usage.input + done.usage.cache_read + done.usage.cache_write,
        tokens_out=done.usage.output,
        cost_usd=done.cost_usd,
        duration_ms=done.duration_ms,
    )
