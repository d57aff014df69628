"""SIGKILL reaches the process that was seen, and no other."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from walrusd.host.killing import kill, kill_all, wait_gone
from walrusd.host.procfs import Seen, children, everyone, look


@pytest.fixture
def sleeper() -> Iterator[Seen]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        seen = look(process.pid)
        assert seen
        yield seen
        process.kill()


def test_one_that_was_seen_is_killed(sleeper: Seen) -> None:
    kill(sleeper)
    assert wait_gone([sleeper], 20)


def test_a_later_one_with_the_number_is_not(sleeper: Seen) -> None:
    earlier = replace(sleeper, start=sleeper.start - 1)
    kill(earlier)
    assert wait_gone([earlier], 0), "who was seen has gone"
    assert not wait_gone([sleeper], 0), "and another is there"


def test_those_who_are_forked_meanwhile_are_killed_too() -> None:
    # Each process starts the next and waits for it, as fast as it can.
    chain = "import os\nfor _ in range(2000):\n    if os.fork():\n        os.wait()\n        os._exit(0)\nos.read(0, 1)"
    with subprocess.Popen([sys.executable, "-c", chain], stdin=subprocess.PIPE, start_new_session=True) as first:
        while not children(first.pid):
            pass
        killed = kill_all(lambda: [seen for seen in everyone() if seen.session == first.pid])
        assert wait_gone(killed, 20)
        assert len(killed) > 1


def test_it_ends_where_one_cannot_be_killed(sleeper: Seen) -> None:
    ghost = replace(sleeper, start=sleeper.start - 1)
    assert kill_all(lambda: [ghost]) == [ghost]


def test_one_that_has_gone_is_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    gone = Seen(process.pid, "true", "R", 1, process.pid, process.pid, 1)
    kill(gone)
    assert wait_gone([gone], 0)
