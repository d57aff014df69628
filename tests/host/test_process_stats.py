"""Tests of read_process_stats with the process that runs the tests."""

import os
import resource
import subprocess
import threading
from pathlib import Path

from walrusd.host.procfs import read_process_stats


def test_rss_is_at_most_the_peak_that_the_kernel_reports() -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 1024 * 1024 < read_process_stats().rss_bytes <= peak * 1.1


def test_open_files_are_counted(tmp_path: Path) -> None:
    before = read_process_stats().fds
    with open(tmp_path / "one", "w"), open(tmp_path / "two", "w"):
        assert read_process_stats().fds == before + 2
    assert read_process_stats().fds == before


def test_a_running_thread_is_counted() -> None:
    before, finish = read_process_stats().threads, threading.Event()
    thread = threading.Thread(target=finish.wait)
    thread.start()
    assert read_process_stats().threads == before + 1
    finish.set()
    thread.join()


def test_children_and_grandchildren_are_counted() -> None:
    before = read_process_stats().children
    # The shell waits for sleep, so sleep is our grandchild.
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        sleeper = int(shell.stdout.readline())
        assert read_process_stats().children == before + 2
        os.kill(sleeper, 15)
    assert read_process_stats().children == before
