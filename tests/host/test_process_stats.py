"""What the kernel counts of this very process."""

import os
import resource
import subprocess
import threading
from pathlib import Path

from walrusd.host.process_stats import count_open_fds, count_threads, read_process_stats, read_rss_bytes


def test_rss_is_what_the_kernel_says_within_reason() -> None:
    most_ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 1024 * 1024 < read_rss_bytes() <= most_ever * 1.1


def test_a_file_that_is_open_is_counted(tmp_path: Path) -> None:
    before = count_open_fds()
    with open(tmp_path / "one", "w"), open(tmp_path / "two", "w"):
        assert count_open_fds() == before + 2
    assert count_open_fds() == before


def test_a_thread_that_runs_is_counted() -> None:
    before, over = count_threads(), threading.Event()
    waiting = threading.Thread(target=over.wait)
    waiting.start()
    assert count_threads() == before + 1
    over.set()
    waiting.join()


def test_children_and_their_children_are_counted() -> None:
    before = read_process_stats().children
    # The shell waits for sleep, so there are two steps between it and us.
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        sleeper = int(shell.stdout.readline())
        assert read_process_stats().children == before + 2
        os.kill(sleeper, 15)
    assert read_process_stats().children == before
