"""Sends systemd's watchdog message, but only while both the event loop and the store respond."""

import faulthandler
import sys
from collections.abc import Awaitable, Callable

import structlog
import trio

from walrusd.host.sd_notify import Notify

log = structlog.get_logger("walrusd")


def enable_faulthandler() -> None:
    """Writes the stack of each thread to stderr when walrusd is killed by ABRT.

    That is the signal of systemd's watchdog. The stacks contain lines of code and no values, so no secrets.
    """
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)


async def run_watchdog(notify: Notify, check_store: Callable[[], Awaitable[None]]) -> None:
    """Sends the watchdog message every quarter of its timeout; returns at once without a watchdog.

    This task proves that the event loop runs, and `check_store` returning proves that the store's thread does. While
    `check_store` blocks, nothing is sent, and in the end systemd restarts walrusd. The log reports the stall after half
    of the timeout; the store has the other half to recover.
    """
    if notify.watchdog_s is None:
        return
    quarter = notify.watchdog_s / 4
    while True:
        asked_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_store_stall, quarter)
            await check_store()
            nursery.cancel_scope.cancel()
        if (took := trio.current_time() - asked_at) > quarter:
            log.warning("store_recovered", after_s=round(took))
        notify.ping_watchdog()
        await trio.sleep(quarter)


async def _log_store_stall(seconds: float) -> None:
    await trio.sleep(seconds)
    log.error(
        "store_stalled",
        for_s=round(seconds),
        hint="systemd restarts walrusd unless the store responds soon. Check whether the disk has failed or is busy."
        " Acknowledged data is safe.",
    )
