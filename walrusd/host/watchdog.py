"""The sign of life that systemd waits for: given only where the loop and the store are both proved to be alive."""

import faulthandler
import sys
from collections.abc import Awaitable, Callable

import structlog
import trio

from walrusd.host.sd_notify import Notify

log = structlog.get_logger("walrusd")


def enable_faulthandler() -> None:
    """Have the log say where each thread stands when walrusd is ended by ABRT, which is what a watchdog sends.

    Lines of code and no values: no secret is among them.
    """
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)


async def run_watchdog(notify: Notify, check_store: Callable[[], Awaitable[None]]) -> None:
    """Say that walrusd lives, each quarter of the time after which it would be given up; without a watchdog, return.

    That this task runs proves the loop; that `pulse` returns proves the store's thread. While it does not, nothing is
    said, and systemd ends walrusd and starts it again: half of the time goes by before the log tells of it, and the
    other half is the store's.
    """
    if notify.watchdog_s is None:
        return
    quarter = notify.watchdog_s / 4
    while True:
        asked = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_log_store_stall, quarter)
            await check_store()
            nursery.cancel_scope.cancel()
        if (took := trio.current_time() - asked) > quarter:
            log.warning("the store answers again", after_s=round(took))
        notify.ping_watchdog()
        await trio.sleep(quarter)


async def _log_store_stall(seconds: float) -> None:
    await trio.sleep(seconds)
    log.error(
        "the store does not answer: systemd will restart walrusd unless it does soon",
        for_s=round(seconds),
        hint="Is the disk dead, or very busy? What was acknowledged is safe.",
    )
