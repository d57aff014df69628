"""The signals that a daemon obeys."""

import os
import signal
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger("walrusd")

EXIT_AT_ONCE = 130
"""A shell's code for what was ended by the second Ctrl-C."""


def outlive_early_hups() -> None:
    """A HUP before anybody watches asks for what the start does anyway: to read the files as they are now.

    A handler of ours and not SIG_IGN, which children would inherit.
    """
    signal.signal(signal.SIGHUP, lambda *_: None)


async def watch_signals(
    stop: trio.Event,
    *,
    reload: Callable[[], None],
    last_act: Callable[[], None],
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
                last_act()
                os._exit(EXIT_AT_ONCE)
            else:
                log.info("signal", signal=name)
                stop.set()
