"""Tests that an idle daemon uses no CPU: none of its threads wakes up, whatever it did before."""

import time
from contextlib import suppress
from pathlib import Path

from tests.fakes.home import Home, WalrusdProcess
from walrus_protocol.client import Client

SAMPLE_INTERVAL_S = 0.5
QUIET_SAMPLES = 6
"""Consecutive samples without a wake-up that count as idle: three seconds."""
MAX_SAMPLES = 40
"""Maximum number of samples before the test fails.

Delayed work, such as ending a thread that was not used for ten seconds, is done by then.
"""


def wake_ups(daemon: WalrusdProcess) -> dict[int, int]:
    """Returns for each thread how often it has gone to sleep so far, as the kernel counts it."""
    counts = {}
    for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
        with suppress(OSError):  # it has ended since
            status = (thread / "status").read_text()
            [count] = [line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")]
            counts[int(thread.name)] = int(count.split()[1])
    return counts


def test_an_idle_daemon_has_no_thread_wake_ups(tmp_path: Path) -> None:
    """A wake-up that repeats within three seconds is always found; work that ends is waited for.

    The speed of the machine does not matter: a waiting thread is woken by work, and not by load.
    """
    with Home(tmp_path / "home").walrusd() as daemon:
        with Client(str(daemon.socket)) as client:
            session = client.call("session.create", {"agent": "walrus"})["session"]
            with client.stream("session.stream", {"session": session, "content": "What is new?"}) as events:
                assert [event["type"] for event in events][-1] == "done"
            client.call("daemon.status")
        samples = [wake_ups(daemon)]
        while samples[-QUIET_SAMPLES - 1 :] != (QUIET_SAMPLES + 1) * [samples[-1]]:
            assert len(samples) <= MAX_SAMPLES, f"something wakes walrusd repeatedly: {samples}"
            time.sleep(SAMPLE_INTERVAL_S)  # no condition to wait for: the test is that nothing happens in this time
            samples.append(wake_ups(daemon))
