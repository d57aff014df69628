"""Killed with -9 at every write of a turn with tools: the next start ends what was open, and does nothing twice."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.crash import mortal_daemon
from tests.crash.mortal_daemon import MESSAGES
from tests.fakes.pairing import calls_are_paired
from tests.fakes.stores import SqliteDisk
from walrus_protocol.content import plain_text
from walrus_protocol.events import Done, ToolResult, ToolStarted, UserMessage, decode_row
from walrus_protocol.methods import TurnResult
from walrusd.agent.agent import Agent
from walrusd.agent.decide import decide
from walrusd.session.session import Session
from walrusd.store.log import Filter


@pytest.mark.parametrize("on_restart", ["continue", "close"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_any_write_a_daemon_loses_nothing_and_runs_no_tool_twice(
    when: str, on_restart: str, tmp_path: Path
) -> None:
    child = subprocess.run(  # noqa: ASYNC221 - nothing else happens in this test meanwhile
        [sys.executable, mortal_daemon.__file__, str(tmp_path), when, on_restart],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    survived = int(child.stdout)
    assert survived > 10
    for n in range(1, survived + 1):
        await check(tmp_path / str(n), on_restart)


async def check(folder: Path, on_restart: str) -> None:
    log = await SqliteDisk(folder).open()
    ((outline, queued),) = await log.outlines(Filter())
    session = Session(outline.id)
    events = [decode_row(row.body) for row in await log.events(session.id, 0, 1000)]
    for event in events:
        session.apply(event)
    assert (outline, queued) == (session.outline, 0)
    assert decide(Agent(name="walrus"), session.outline) is None
    assert calls_are_paired(session.history.messages)
    heard = [event for event in events if isinstance(event, UserMessage)]
    assert [plain_text(event.content) for event in heard if event.kind != "resume"] == [*MESSAGES]
    dones = [event for event in events if isinstance(event, Done)]
    assert [done.turn for done in dones] == [1, 2]
    if on_restart == "continue":
        assert [(done.stop_reason, done.text) for done in dones] == [
            ("text_response", "Touched."),
            ("text_response", "Yes."),
        ]
    results = [msgspec.json.decode(line, type=tuple[str, TurnResult]) for line in lines(folder / "results")]
    for key, result in results:
        done = dones[MESSAGES.index(key)]
        assert (result.turn, result.stop_reason, result.text) == (done.turn, done.stop_reason, done.text)
    assert {key for key, _ in results} == {line.decode() for line in lines(folder / "accepted")} == {*MESSAGES}
    touched = Counter(lines(folder / "touched"))
    assert max(touched.values(), default=0) <= 1
    started = [event for event in events if isinstance(event, ToolStarted)]
    assert len(touched) <= len(started)
    sure = [event for event in events if isinstance(event, ToolResult) and event.outcome == "ok"]
    unknown = [event for event in events if isinstance(event, ToolResult) and "unknown" in event.output]
    assert len(sure) <= len(touched) <= len(sure) + len(unknown), "the model is told of every effect, or that it may be"
    await log.aclose()


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()
