"""Runs walrusd and counts the calls of its own functions, on all threads.

    python -m benchmarks.counted_daemon --home FOLDER

At SIGUSR1 it writes the counts since the last signal to FOLDER/calls.json, and starts again at zero.
"""

import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

from benchmarks.children import ROOT

OWN_FOLDERS = tuple(f"{ROOT}/{name}/" for name in ("walrusd", "protocol", "config"))
CALLS_FILE = "calls.json"

RESUMED = " (resumed)"
"""Follows the name of a function if the number is that of its resumptions after an await or a yield."""

calls: Counter[CodeType] = Counter()
resumptions: Counter[CodeType] = Counter()


def count(frame: FrameType, event: str, _: object) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(OWN_FOLDERS):
        # The interpreter reports both as a call. The argument of the RESUME instruction tells them apart.
        resumed = frame.f_lasti >= 0 and code.co_code[frame.f_lasti + 1] & 3
        (resumptions if resumed else calls)[code] += 1


def write_counts(path: Path) -> None:
    """Writes the counts as JSON: {"file:function": calls}. Replaces the file, so that a reader sees all or nothing."""
    named: Counter[str] = Counter()
    for counter, suffix in ((calls, ""), (resumptions, RESUMED)):
        counted = counter.copy()
        counter.clear()
        for code, number in counted.items():
            named[f"{os.path.relpath(code.co_filename, ROOT)}:{code.co_qualname}{suffix}"] += number
    path.with_suffix(".new").write_text(json.dumps(named))
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    signal.signal(signal.SIGUSR1, lambda *_: write_counts(home / CALLS_FILE))
    threading.setprofile(count)
    sys.setprofile(count)
    from walrusd.__main__ import main

    main()
