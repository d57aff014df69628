"""Fixtures of every test: only errors are logged, and a process that outlives its test fails it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
import structlog
from hypothesis import settings

from tests.fakes.process_leak_check import all_pids, find_leaked_processes
from walrusd.host.kill import kill
from walrusd.runtime.runtime import Runtime

settings.register_profile("default", deadline=None)
settings.load_profile("default")
settings.register_profile("thorough", max_examples=20_000, deadline=None)
"""Selected by `pytest --hypothesis-profile=thorough`; takes an hour instead of a minute."""


@pytest.fixture(autouse=True)
def errors_only_log() -> None:
    """Logs only errors, which pytest then shows next to a failure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test that leaves a process running, and kills that process."""
    before = all_pids()
    yield
    if leaked := find_leaked_processes(before, f"{tmp_path_factory.getbasetemp()}/"):
        for process in leaked:
            kill(process)
        pytest.fail(f"left running: {leaked}")


@pytest.fixture(autouse=True)
def no_lease_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test whose runtime ends while a session is still leased: it could never be evicted or deleted."""
    aexit = Runtime.__aexit__

    async def checked_aexit(
        self: Runtime, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        suppressed = await aexit(self, kind, error, trace)
        assert error or not self.session_cache.leased_sessions()
        return suppressed

    monkeypatch.setattr(Runtime, "__aexit__", checked_aexit)


TESTS = Path(__file__).parent
SLOW_FOLDERS = ("crash", "end_to_end")
"""Folders whose tests start real daemons or processes, all of which `make quick` leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
