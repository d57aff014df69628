"""Tests that a child does nothing if walrusd died before the child asked for its death signal."""

import os
import select
import subprocess
import sys
from pathlib import Path

from tests.fakes.home import MAX_WAIT_S, ROOT

LAUNCH_SCRIPT = """
import os, sys, time
from walrusd.host import launch
fifo, trace = sys.argv[1:]
# Stands for setpriv, which asks for the death signal some time after the fork: here, when the test writes to the FIFO.
prefix = ("sh", "-c", f'read -r _ < {fifo}; exec "$@"', "sh")
request = launch.SpawnRequest(
    argv=("touch", trace), cwd="/", env=dict(os.environ), stdin="null", stderr="merged", umask=0o077
)
launch.find_pdeathsig_command = lambda: prefix
spawned = launch.launch(request)
os.write(spawned.start_barrier, b"\\n")
print(spawned.popen.pid, flush=True)
time.sleep(1000)
"""


def run_child(tmp_path: Path, *, kill_parent: bool) -> bool:
    """Returns whether a child's program ran; its parent may be killed before it asks for the signal."""
    fifo, trace = tmp_path / "fifo", tmp_path / "trace"
    os.mkfifo(fifo)
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "protocol", "config"))
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH_SCRIPT, str(fifo), str(trace)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        if kill_parent:
            parent.kill()
            parent.wait()
        fifo.write_text("\n")
        end = select.poll()
        end.register(pidfd, select.POLLIN)
        assert end.poll(MAX_WAIT_S * 1000), "the child did not end"
        os.close(pidfd)
        parent.kill()
    return trace.exists()


def test_a_child_whose_parent_lives_runs_its_program(tmp_path: Path) -> None:
    assert run_child(tmp_path, kill_parent=False)


def test_a_child_whose_parent_died_before_it_asked_for_the_death_signal_does_nothing(tmp_path: Path) -> None:
    assert not run_child(tmp_path, kill_parent=True)
