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

calls: Counter[CodeType] = Counter()


def count(frame: FrameType, event: str, _: object) -> None:
    """Counts each call of a Python function, and each time that a coroutine or a generator is resumed."""
    if event == "call" and frame.f_code.co_filename.startswith(OWN_FOLDERS):
        calls[frame.f_code] += 1


def write_counts(path: Path) -> None:
    """Writes the counts as JSON: {"file:function": calls}. Replaces the file, so that a reader sees all or nothing."""
    counted = calls.copy()
    calls.clear()
    named: Counter[str] = Counter()
    for code, number in counted.items():
        named[f"{os.path.relpath(code.co_filename, ROOT)}:{code.co_qualname}"] += number
    path.with_suffix(".new").write_text(json.dumps(named))
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    signal.signal(signal.SIGUSR1, lambda *_: write_counts(home / CALLS_FILE))
    threading.setprofile(count)
    sys.setprofile(count)
    from walrusd.__main__ import main

    main()
