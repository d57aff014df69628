"""One life of a daemon without its socket, in a folder that is its home; at its end its log is examined."""

import os
import time
from pathlib import Path

import structlog
import trio
import trio.testing
from msgspec import Struct

from tests.crash.boundaries import Boundaries, Place
from tests.crash.cast import GO, MortalHook, MortalModel, MortalSpawner, Props
from tests.crash.client import Client
from tests.crash.failing_disk import FailingDisk, Fault
from tests.crash.mortal_log import MortalLog
from tests.crash.notes import LeftOpen, Notes
from tests.crash.outcome import outcome
from tests.crash.stage import Stage
from tests.crash.verdict import check
from tests.fakes.numbered_disk import numbered_disk
from walrus_config import schema as config
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.parts import end_left_running
from walrusd.redaction import Redaction
from walrusd.runtime.runtime import Runtime
from walrusd.session.mend import OnRestart

ALL_BUT_ONE = config.Permissions(allow=("peek", "touch", "count", "bash"), default="deny")


class Life(Struct, frozen=True, kw_only=True):
    """How it goes. With neither of these it goes its whole way."""

    folder: Path
    dies_at: int = 0
    """The number of the boundary."""
    fault: Fault | None = None
    on_restart: OnRestart = "continue"


class Account(Struct, frozen=True):
    """Of a life that went its whole way: the boundaries that it passed, and what became of what was under way."""

    passed: list[Place]
    outcome: str


def live(life: Life) -> Account:
    """Raises AssertionError where a promise was broken."""
    structlog.configure(processors=[_drop])
    boundaries = Boundaries(life.dies_at)
    disk = FailingDisk(life.fault)
    with numbered_disk(disk.before):
        became = trio.run(_live, life, boundaries, disk, clock=trio.testing.MockClock())
    assert disk.failed == bool(life.fault), "the fault was met"
    return Account(boundaries.passed, became)


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


async def _live(life: Life, boundaries: Boundaries, disk: FailingDisk) -> str:
    notes, stage = Notes(life.folder), Stage(boundaries)
    if not (life.folder / GO).exists():
        os.mkfifo(life.folder / GO)
    log = await MortalLog.open(str(life.folder / "walrus.db"), durability="full")
    assert isinstance(log, MortalLog)
    log.give(boundaries, disk, notes.drafted)
    try:
        await _run(life, log, stage, disk, notes)
        told = await check(log, life.folder, life.on_restart)
        return outcome([event for one in told.values() for event in one.events], notes)
    finally:
        await log.aclose()


async def _run(life: Life, log: MortalLog, stage: Stage, disk: FailingDisk, notes: Notes) -> None:
    await end_left_running(log, str(life.folder))
    props = Props(stage, life.folder)
    async with MortalSpawner(0o77) as spawner:
        spawner.give(stage.boundaries)
        pipeline = Pipeline(
            props.tools(),
            settings={},
            agents={},
            permissions=ALL_BUT_ONE,
            clock=time.monotonic,
            spawner=spawner,
            home=str(life.folder),
            redact=Redaction(),
        )
        hook = MortalHook(pipeline, stage, props, notes, life.folder)
        model = MortalModel(stage, log, notes)
        async with Runtime(model, hook, log=log, clock=lambda: 1e9, on_restart=life.on_restart) as runtime:
            runtime.add_agent(Agent(name="walrus", workspace=str(life.folder)))
            again = await _begin(log, notes)
            client = Client(runtime, log, stage, disk, notes, again=again)
            if again:
                stage.hold()
                await runtime.recover()
                await client.quiet()
            await client.play()


async def _begin(log: MortalLog, notes: Notes) -> bool:
    """Whether there was a life before it; note which turns that has left open."""
    again = bool(notes.read("life"))
    outlines = [await log.outline(number) for number in await log.unfinished()]
    open_turns = [
        LeftOpen(outline.id, outline.turn.number, outline.last_seq) for outline in outlines if outline and outline.turn
    ]
    notes.write("life", value=open_turns)
    return again
