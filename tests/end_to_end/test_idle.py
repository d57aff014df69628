"""A daemon with nothing to do does nothing: no thread of it is woken, whatever it did before."""

import time
from contextlib import suppress
from pathlib import Path

from tests.fakes.home import Home, WalrusdProcess
from walrus_protocol.client import Client

SAMPLE_INTERVAL_S = 0.5
QUIET_SAMPLES = 6
"""Looks in a row between which nothing happened: three seconds."""
MAX_SAMPLES = 40
"""What a daemon has still to do after its work, such as letting a thread go that was not used for ten seconds, is done
by then."""


def wake_ups(daemon: WalrusdProcess) -> dict[int, int]:
    """How often each thread has gone to sleep so far. The kernel counts; nothing of the daemon's takes part in it."""
    counts = {}
    for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
        with suppress(OSError):  # it has ended since
            status = (thread / "status").read_text()
            [count] = [line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")]
            counts[int(thread.name)] = int(count.split()[1])
    return counts


def test_an_idle_daemon_has_no_thread_wake_ups(tmp_path: Path) -> None:
    """What comes back at least every three seconds is found, always; what settles is waited for.

    The speed of the machine plays no part: a thread that waits is woken by something to do, and not by load.
    """
    with Home(tmp_path / "home").walrusd() as daemon:
        with Client(str(daemon.socket)) as client:
            session = client.call("session.create", {"agent": "walrus"})["session"]
            with client.stream("session.stream", {"session": session, "content": "What is new?"}) as events:
                assert [event["type"] for event in events][-1] == "done"
            client.call("daemon.status")
        seen = [wake_ups(daemon)]
        while seen[-QUIET_SAMPLES - 1 :] != (QUIET_SAMPLES + 1) * [seen[-1]]:
            assert len(seen) <= MAX_SAMPLES, f"something wakes walrusd again and again: {seen}"
            time.sleep(SAMPLE_INTERVAL_S)  # nothing is waited for: that nothing happens meanwhile is what is looked at
            seen.append(wake_ups(daemon))
