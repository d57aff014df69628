"""The signals that a daemon obeys."""

import os
import signal
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger("walrusd")

EXIT_FORCED = 130
"""A shell's code for what was ended by the second Ctrl-C."""


def ignore_early_sighup() -> None:
    """A HUP before anybody watches asks for what the start does anyway: to read the files as they are now.

    A handler of ours and not SIG_IGN, which children would inherit.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)


async def watch_signals(
    stop: trio.Event,
    *,
    reload: Callable[[], None],
    on_forced_exit: Callable[[], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """TERM and INT stop; a second one ends at once, after `last_act`. HUP reloads. What is durable stays so anyway."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                reload()
            elif stop.is_set():
                log.warning("ending at once", signal=name)
                on_forced_exit()
                os._exit(EXIT_FORCED)
            else:
                log.info("signal", signal=name)
                stop.set()
