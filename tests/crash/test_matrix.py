"""Tests the crash matrix: after any kill or disk fault nothing is lost and nothing is done twice.

Each run checks its own log (`expected_outcome`). These tests check that every run passed, and that docs/crash-matrix.md
shows its outcome.
"""

import os
import sys
from pathlib import Path

import pytest
import trio

from tests.crash.matrix_page import HEAD, SECTIONS
from tests.crash.render import PAGE

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)  # hundreds of processes in sequence: 10 s on an idle machine
@pytest.mark.parametrize("part", SECTIONS)
async def test_each_kill_has_the_outcome_that_the_page_shows(part: str) -> None:
    run = await trio.run_process(
        [sys.executable, "-m", "tests.crash.render", part],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout.startswith(b"## ")
    assert run.stdout.decode() in PAGE.read_text(), (
        "docs/crash-matrix.md is out of date: run python -m tests.crash.render"
    )


def test_the_page_has_its_head_and_a_section_for_each_part() -> None:
    head, *sections = PAGE.read_text().split("\n\n## ")
    assert head == HEAD
    assert len(sections) == len(SECTIONS)
