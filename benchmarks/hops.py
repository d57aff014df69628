"""Counts the calls of walrusd's own functions for a send and for a streamed token.

The numbers depend on the code alone, not on the machine's speed.
"""

import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.children import DaemonProcess, make_home, provider, walrusd
from benchmarks.counted_daemon import CALLS_FILE, RESUMED
from benchmarks.setup import Setup
from benchmarks.table import Measurement
from benchmarks.turns import TEXT, create_sessions, run_turn
from benchmarks.wire import RawConnection, count_frames, encode_request

SENDS = 100
TOKENS = 2_000
TOKEN_GAP_US = 1_000
"""Microseconds between tokens: each one arrives in a read of its own, although counting slows the daemon."""
MAX_FILES = 40
MAX_CALLS = 400
MAX_CALLS_A_TOKEN = 20
COUNT_TIMEOUT_S = 10.0


def run(setup: Setup) -> list[Measurement]:
    sends, tokens = count_calls(setup.folder / "hops", setup.url)
    files = len({name.partition(":")[0] for name in sends})
    calls, resumed = (number / SENDS for number in _sums(sends))
    # A streamed turn has the calls of a send as well.
    stream_calls, stream_resumed = _sums(tokens)
    token_calls, token_resumed = (stream_calls - calls) / TOKENS, (stream_resumed - resumed) / TOKENS
    return [
        Measurement(
            what="files that a session.send passes through",
            measured=f"{files}",
            bar=f"≤ {MAX_FILES}",
            met=files <= MAX_FILES,
            values={"files": files},
        ),
        Measurement(
            what="own calls of a session.send",
            measured=f"{calls:.0f} (and {resumed:.0f} resumptions after an await)",
            bar=f"≤ {MAX_CALLS}",
            met=calls <= MAX_CALLS,
            values={"calls": calls, "resumptions": resumed},
        ),
        Measurement(
            what="own calls of a streamed token",
            measured=f"{token_calls:.1f} (and {token_resumed:.1f} resumptions)",
            bar=f"≤ {MAX_CALLS_A_TOKEN}",
            met=token_calls <= MAX_CALLS_A_TOKEN,
            values={"calls": token_calls, "resumptions": token_resumed},
        ),
    ]


def _sums(counted: Counter[str]) -> tuple[float, float]:
    """Returns the number of calls and the number of resumptions."""
    resumed = sum(number for name, number in counted.items() if name.endswith(RESUMED))
    return counted.total() - resumed, resumed


def count_calls(home: Path, url: str) -> tuple[Counter[str], Counter[str]]:
    """Returns the calls of SENDS warm turns, and those of one turn that streams TOKENS tokens."""
    stream = f"stream-{TOKENS}-{TOKEN_GAP_US}"
    with walrusd(make_home(home, url, models=(stream,)), "benchmarks.counted_daemon") as daemon:
        connection = daemon.connect()
        sends = _count_sends(daemon, connection)
        tokens = _count_calls(daemon, lambda: _stream_tokens(connection, stream))
        connection.close()
    return sends, tokens


def _count_sends(daemon: DaemonProcess, connection: RawConnection) -> Counter[str]:
    """Returns the calls of SENDS warm turns, each the first of a session."""
    sessions = create_sessions(connection, 2 * SENDS)
    for session in sessions[:SENDS]:
        run_turn(connection, session)

    def send_all() -> None:
        for session in sessions[SENDS:]:
            run_turn(connection, session)

    counted = _count_calls(daemon, send_all)
    # What runs now and then, such as a check of the write-ahead log, is not on the way of a send.
    return Counter({name: number for name, number in counted.items() if number >= SENDS // 2})


def _stream_tokens(connection: RawConnection, agent: str) -> None:
    session = create_sessions(connection, 1, agent)[0]
    frames, _, _ = count_frames(
        connection.socket, encode_request("session.stream", {"session": session, "content": TEXT})
    )
    if frames < TOKENS:
        raise RuntimeError(f"only {frames} frames came for {TOKENS} tokens")


def _count_calls(daemon: DaemonProcess, work: Callable[[], None]) -> Counter[str]:
    _read_counts(daemon)
    work()
    return _read_counts(daemon)


def _read_counts(daemon: DaemonProcess) -> Counter[str]:
    """Returns the calls since the last call of this function, by file and function."""
    path = daemon.home / CALLS_FILE
    path.unlink(missing_ok=True)
    os.kill(daemon.pid, signal.SIGUSR1)
    deadline = time.monotonic() + COUNT_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the daemon wrote no counts")
        time.sleep(0.001)
    return Counter(json.loads(path.read_text()))


def main() -> None:
    """Prints the calls of each function: `python -m benchmarks.hops`."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, provider() as url:
        sends, tokens = count_calls(Path(folder) / "hops", url)
    for what, counted, number in (("a send", sends, SENDS), ("a streamed token", tokens, TOKENS)):
        print(f"calls of {what}:")
        for name, calls in counted.most_common():
            if calls >= number // 2:
                print(f"{calls / number:6.1f}  {name}")


if __name__ == "__main__":
    main()
