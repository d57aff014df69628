"""What every test shares: a quiet log, and that nothing runs when it is over."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.fakes.process_leak_check import all_pids, find_leaked_processes
from walrusd.host.kill import kill

settings.register_profile("thorough", max_examples=20_000, deadline=None)
"""`pytest --hypothesis-profile=thorough`: an hour instead of a minute."""


@pytest.fixture(autouse=True)
def errors_only_log() -> None:
    """Only errors are printed, where pytest shows them beside a failure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process that a test has started outlives it."""
    before = all_pids()
    yield
    if left := find_leaked_processes(before, f"{tmp_path_factory.getbasetemp()}/"):
        for seen in left:
            kill(seen)
        pytest.fail(f"left running: {left}")
