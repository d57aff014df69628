"""Signal handling of the daemon: TERM and INT stop it, HUP reloads its configuration."""

import os
import signal
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger("walrusd")

EXIT_FORCED = 130
"""Exit status after a second TERM or INT; shells report 130 for a program ended by Ctrl-C."""


def ignore_early_sighup() -> None:
    """Ignores a HUP during the start, which reads the configuration files anyway.

    Installs a handler of its own, because children would inherit SIG_IGN.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)


async def watch_signals(
    stop: trio.Event,
    *,
    reload: Callable[[], None],
    on_forced_exit: Callable[[], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sets `stop` at the first TERM or INT, and calls `reload` at each HUP; runs until cancelled.

    A second TERM or INT calls `on_forced_exit` and exits at once. Durable data is safe then, too.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                reload()
            elif stop.is_set():
                log.warning("forced_exit", signal=name)
                on_forced_exit()
                os._exit(EXIT_FORCED)
            else:
                log.info("signal_received", signal=name)
                stop.set()
