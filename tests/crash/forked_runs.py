"""Runs the daemon in forked processes, each in a home of its own or in a copy of another home."""

import shutil
import signal
from functools import partial
from pathlib import Path

import msgspec
import trio

from tests.crash.single_run import RunReport, RunSpec, run_daemon
from tests.fakes.fork_and_kill import run_in_fork
from tests.fakes.stores import SqliteDisk
from walrus_protocol.json import decode

REPORT_FILE = "report"


class ForkedRuns:
    """Creates numbered homes in `folder`, and runs the daemon in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._homes = 0
        self._empty = self._make_home()
        assert run_in_fork(partial(trio.run, _create_log, self._empty)) == 0

    def new_home(self) -> Path:
        return self.copy_home(self._empty)

    def copy_home(self, source: Path) -> Path:
        """Returns a new home with the database, records and trace of `source`."""
        home = self._make_home()
        for name in ("walrus.db", "walrus.db-wal", "records", "published", "trace"):
            if (source / name).exists():
                shutil.copyfile(source / name, home / name)
        return home

    def _make_home(self) -> Path:
        self._homes += 1
        home = self._folder / str(self._homes)
        home.mkdir()
        return home

    def run_until_killed(self, spec: RunSpec) -> None:
        assert run_in_fork(partial(_write_report, spec)) == -signal.SIGKILL, f"{spec} survived"

    def run_to_end(self, spec: RunSpec) -> RunReport:
        """Returns the report. Raises AssertionError if a check failed; its traceback is on stderr."""
        status = run_in_fork(partial(_write_report, spec))
        assert status == 0, f"{spec} ended with {status}"
        return decode((spec.folder / REPORT_FILE).read_bytes(), RunReport)


async def _create_log(folder: Path) -> None:
    await (await SqliteDisk(folder).open()).aclose()


def _write_report(spec: RunSpec) -> None:
    (spec.folder / REPORT_FILE).write_bytes(msgspec.json.encode(run_daemon(spec)))
