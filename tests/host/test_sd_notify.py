"""Tests of sd_notify and the watchdog with a fake service manager, and without one."""

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

from tests.fakes.service_manager import FakeServiceManager
from walrusd.host.sd_notify import MAX_START_S, Notify, extending_timeout
from walrusd.host.watchdog import run_watchdog


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    with FakeServiceManager(tmp_path) as manager:
        yield manager


@pytest.fixture
def notify(manager: FakeServiceManager) -> Iterator[Notify]:
    notify = Notify(manager.address)
    yield notify
    notify.close()


@pytest.fixture
def log_lines(errors_only_log: None) -> Iterator[list[EventDict]]:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_each_notification_is_one_message(manager: FakeServiceManager, notify: Notify) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.extend_timeout(1.5)
    notify.ready()
    notify.status("one\ntwo ")
    notify.ping_watchdog()
    notify.reloading()
    notify.stopping()
    *messages, reloading, stopping = manager.read_pending()
    assert messages == ["EXTEND_TIMEOUT_USEC=1500000", "READY=1", "STATUS=one two", "WATCHDOG=1"]
    assert stopping == "STOPPING=1"
    found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
    assert found
    assert before <= int(found[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_an_abstract_address_is_supported(tmp_path: Path) -> None:
    with FakeServiceManager(tmp_path, abstract=True) as manager:
        notify = Notify.from_environ({"NOTIFY_SOCKET": manager.address})
        notify.ready()
        assert manager.read_pending() == ["READY=1"]
        notify.close()


def test_notify_variables_are_removed_from_the_environment(manager: FakeServiceManager) -> None:
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
async def test_a_watchdog_of_another_process_is_ignored(environ: dict[str, str]) -> None:
    notify = Notify.from_environ(environ)
    assert notify.watchdog_s is None
    await run_watchdog(notify, trio.sleep_forever)


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/at/all", "@nobody", "/" + "x" * 200])
def test_no_service_manager_is_needed(address: str) -> None:
    notify = Notify.from_environ({"NOTIFY_SOCKET": address})
    notify.reloading()
    notify.ready()
    notify.close()


def test_a_full_socket_is_logged_once_and_the_state_is_sent_with_the_next_message(
    manager: FakeServiceManager, notify: Notify, log_lines: list[EventDict]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"noise", manager.address)
        notify.status("lost")
        notify.reloading()
        notify.ready()
    assert [(line["log_level"], line["message"]) for line in log_lines] == [("debug", "STATUS=lost")]
    assert set(manager.read_pending()) == {"noise"}
    notify.ping_watchdog()
    notify.ping_watchdog()
    assert manager.read_pending() == ["READY=1\nWATCHDOG=1", "WATCHDOG=1"]


async def test_the_timeout_is_extended_as_long_as_the_start_takes(
    manager: FakeServiceManager, notify: Notify, autojump_clock: MockClock
) -> None:
    async with extending_timeout(notify):
        await trio.sleep(12)
    await trio.sleep(100)
    assert manager.read_pending() == ["EXTEND_TIMEOUT_USEC=30000000"] * 3


async def test_the_timeout_of_a_hanging_start_is_not_extended_for_ever(
    manager: FakeServiceManager, notify: Notify, autojump_clock: MockClock
) -> None:
    received = 0
    async with extending_timeout(notify):
        for _ in range(int(MAX_START_S) // 20 + 1):  # the queue of a socket may hold only ten messages
            await trio.sleep(20)
            received += len(manager.read_pending())
        await trio.sleep(1000)
        assert manager.read_pending() == []
    assert received == MAX_START_S // 5


class HangingStore:
    """A store that responds at once until a test makes it hang."""

    def __init__(self) -> None:
        self.responding = trio.Event()
        self.responding.set()

    async def wait_for_writes(self) -> None:
        await self.responding.wait()


async def test_the_watchdog_is_notified_only_while_the_store_responds(
    manager: FakeServiceManager, log_lines: list[EventDict], autojump_clock: MockClock
) -> None:
    notify, store = Notify(manager.address, watchdog_s=60.0), HangingStore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_watchdog, notify, store.wait_for_writes)
        await trio.sleep(65)
        assert manager.read_pending() == ["WATCHDOG=1"] * 5
        assert log_lines == []

        store.responding = trio.Event()
        await trio.sleep(26)  # the last message was 31 seconds ago: about half of the timeout is left
        assert manager.read_pending() == []
        [line] = log_lines
        assert (line["log_level"], line["for_s"]) == ("error", 15)
        assert line["event"] == "store_stalled"
        await trio.sleep(274)
        assert (manager.read_pending(), len(log_lines)) == ([], 1)

        store.responding.set()
        await trio.sleep(1)
        assert manager.read_pending() == ["WATCHDOG=1"]
        assert [line["event"] for line in log_lines[1:]] == ["store_recovered"]
        assert log_lines[1]["after_s"] == 290
        await trio.sleep(15)
        assert manager.read_pending() == ["WATCHDOG=1"]
        nursery.cancel_scope.cancel()
    assert len(log_lines) == 2
    notify.close()
