"""One life of a daemon without its socket, in a folder that is its home; at its end its log is examined."""

import os
import time
from pathlib import Path

import structlog
import trio
import trio.testing
from msgspec import Struct

from tests.crash.actors import GO_PIPE, KillableHook, KillableModel, KillableSpawner, ScriptedTools
from tests.crash.client import ScriptedClient
from tests.crash.expected_outcome import check_home
from tests.crash.failing_disk import DiskFault, FailingDisk
from tests.crash.kill_points import KillPoint, KillPoints
from tests.crash.killable_log import KillableLog
from tests.crash.outcome import describe_outcome
from tests.crash.scheduler_control import SchedulerControl
from tests.crash.side_records import OpenTurn, SideRecords
from tests.fakes.fault_injecting_vfs import fault_injecting_vfs
from walrus_config import schema as config
from walrusd.agent.agent import Agent
from walrusd.composition.components import kill_orphaned_tools
from walrusd.dispatch.pipeline import Pipeline
from walrusd.observability.redaction import Redaction
from walrusd.runtime.runtime import Runtime
from walrusd.session.recovery import OnRestart

PERMISSIONS = config.PermissionSettings(allow=("peek", "touch", "count", "bash"), default="deny")


class RunSpec(Struct, frozen=True, kw_only=True):
    """How it goes. With neither of these it goes its whole way."""

    folder: Path
    kill_at: int = 0
    """The number of the boundary."""
    fault: DiskFault | None = None
    on_restart: OnRestart = "continue"


class RunReport(Struct, frozen=True):
    """Of a life that went its whole way: the boundaries that it passed, and what became of what was under way."""

    kill_points: list[KillPoint]
    outcome: str


def run_daemon(spec: RunSpec) -> RunReport:
    """Raises AssertionError where a promise was broken."""
    structlog.configure(processors=[_drop_log_line])
    boundaries = KillPoints(spec.kill_at)
    disk = FailingDisk(spec.fault)
    with fault_injecting_vfs(disk.before_step):
        became = trio.run(_run_and_check, spec, boundaries, disk, clock=trio.testing.MockClock())
    assert disk.has_failed == bool(spec.fault), "the fault was met"
    return RunReport(boundaries.reached, became)


def _drop_log_line(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


async def _run_and_check(spec: RunSpec, kill_points: KillPoints, disk: FailingDisk) -> str:
    notes, stage = SideRecords(spec.folder), SchedulerControl(kill_points)
    if not (spec.folder / GO_PIPE).exists():
        os.mkfifo(spec.folder / GO_PIPE)
    log = await KillableLog.open(str(spec.folder / "walrus.db"), durability="full")
    assert isinstance(log, KillableLog)
    log.attach(kill_points, disk, notes.record_draft)
    try:
        await _run_client(spec, log, stage, disk, notes)
        told = await check_home(log, spec.folder, spec.on_restart)
        return describe_outcome([event for one in told.values() for event in one.events], notes)
    finally:
        await log.aclose()


async def _run_client(
    spec: RunSpec, log: KillableLog, control: SchedulerControl, disk: FailingDisk, records: SideRecords
) -> None:
    await kill_orphaned_tools(log, str(spec.folder))
    props = ScriptedTools(control, spec.folder)
    async with KillableSpawner(0o77) as spawner:
        spawner.set_kill_points(control.kill_points)
        pipeline = Pipeline(
            props.tools(),
            settings={},
            agents={},
            permissions=PERMISSIONS,
            clock=time.monotonic,
            spawner=spawner,
            home=str(spec.folder),
            redact=Redaction(),
        )
        hook = KillableHook(pipeline, control, props, records, spec.folder)
        model = KillableModel(control, log, records)
        async with Runtime(model, hook, log=log, clock=lambda: 1e9, on_restart=spec.on_restart) as runtime:
            runtime.add_agent(Agent(name="walrus", workspace=str(spec.folder)))
            again = await _record_start(log, records)
            client = ScriptedClient(runtime, log, control, disk, records, is_restart=again)
            if again:
                control.hold()
                await runtime.recover()
                await client.wait_settled()
            await client.run()


async def _record_start(log: KillableLog, records: SideRecords) -> bool:
    """Whether there was a life before it; note which turns that has left open."""
    again = bool(records.read("life"))
    outlines = [await log.session_state(number) for number in await log.unfinished_sessions()]
    open_turns = [
        OpenTurn(outline.id, outline.turn.number, outline.last_seq) for outline in outlines if outline and outline.turn
    ]
    records.write("life", value=open_turns)
    return again
