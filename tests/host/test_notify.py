"""What a service manager hears, and that nobody is needed to hear it; the watchdog proves the loop and the store."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import MockClock

from tests.fakes.manager import ServiceManager
from walrusd.host.notify import LONGEST_START_S, Notify, extending
from walrusd.host.watchdog import watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


@pytest.fixture
def notify(manager: ServiceManager) -> Iterator[Notify]:
    notify = Notify(manager.address)
    yield notify
    notify.close()


@pytest.fixture
def logged(quiet_log: None) -> Iterator[list[EventDict]]:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_each_word_is_a_message(manager: ServiceManager, notify: Notify) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.extend(1.5)
    notify.ready()
    notify.status("one\ntwo ")
    notify.alive()
    notify.reloading()
    notify.stopping()
    *said, reloading, stopping = manager.waiting()
    assert said == ["EXTEND_TIMEOUT_USEC=1500000", "READY=1", "STATUS=one two", "WATCHDOG=1"]
    assert stopping == "STOPPING=1"
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
    assert found
    assert before <= int(found[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_address_is_spoken_to(tmp_path: Path) -> None:
    with ServiceManager(tmp_path, abstract=True) as manager:
        notify = Notify.from_environ({"NOTIFY_SOCKET": manager.address})
        notify.ready()
        assert manager.waiting() == ["READY=1"]
        notify.close()


def test_what_the_environment_says_is_taken_out_of_it(manager: ServiceManager) -> None:
    environ = {"HOME": "/h", **manager.environ(watchdog_s=3.0), "WATCHDOG_PID": str(os.getpid())}
    notify = Notify.from_environ(environ)
    assert environ == {"HOME": "/h"}
    assert notify.watchdog_s == 3.0
    notify.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": ""},
    ],
)
async def test_a_watchdog_that_is_not_ours_is_none(environ: dict[str, str]) -> None:
    notify = Notify.from_environ(environ)
    assert notify.watchdog_s is None
    await watchdog(notify, trio.sleep_forever)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/at/all", "@nobody", "/" + "x" * 200])
def test_nobody_is_needed(address: str) -> None:
    notify = Notify.from_environ({"NOTIFY_SOCKET": address})
    notify.reloading()
    notify.ready()
    notify.close()


def test_a_full_socket_is_told_once_at_debug_and_a_state_is_said_with_the_next_word(
    manager: ServiceManager, notify: Notify, logged: list[EventDict]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"noise", manager.address)
        notify.status("lost")
        notify.reloading()
        notify.ready()
    assert [(line["log_level"], line["said"]) for line in logged] == [("debug", "STATUS=lost")]
    assert set(manager.waiting()) == {"noise"}
    notify.alive()
    notify.alive()
    assert manager.waiting() == ["READY=1\nWATCHDOG=1", "WATCHDOG=1"]


async def test_a_start_is_extended_for_as_long_as_it_takes(
    manager: ServiceManager, notify: Notify, autojump_clock: MockClock
) -> None:
    async with extending(notify):
        await trio.sleep(12)
    await trio.sleep(100)
    assert manager.waiting() == ["EXTEND_TIMEOUT_USEC=30000000"] * 3


async def test_a_start_that_hangs_is_given_up(
    manager: ServiceManager, notify: Notify, autojump_clock: MockClock
) -> None:
    said = 0
    async with extending(notify):
        for _ in range(int(LONGEST_START_S) // 20 + 1):  # a socket may hold ten messages and no more
            await trio.sleep(20)
            said += len(manager.waiting())
        await trio.sleep(1000)
        assert manager.waiting() == []
    assert said == LONGEST_START_S // 5


class Store:
    """It answers at once, until it hangs."""

    def __init__(self) -> None:
        self.answers = trio.Event()
        self.answers.set()

    async def pulse(self) -> None:
        await self.answers.wait()


async def test_the_watchdog_hears_of_a_store_that_answers_and_nothing_of_one_that_hangs(
    manager: ServiceManager, logged: list[EventDict], autojump_clock: MockClock
) -> None:
    notify, store = Notify(manager.address, watchdog_s=60.0), Store()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog, notify, store.pulse)
        await trio.sleep(65)
        assert manager.waiting() == ["WATCHDOG=1"] * 5
        assert logged == []

        store.answers = trio.Event()
        await trio.sleep(26)  # the last sign of life was 31 seconds ago: as many are left before it is the end
        assert manager.waiting() == []
        [line] = logged
        assert (line["log_level"], line["for_s"]) == ("error", 15)
        assert line["event"].startswith("the store does not answer")
        await trio.sleep(274)
        assert (manager.waiting(), len(logged)) == ([], 1)

        store.answers.set()
        await trio.sleep(1)
        assert manager.waiting() == ["WATCHDOG=1"]
        assert [line["event"] for line in logged[1:]] == ["the store answers again"]
        assert logged[1]["after_s"] == 290
        await trio.sleep(15)
        assert manager.waiting() == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()
    assert len(logged) == 2
    notify.close()
