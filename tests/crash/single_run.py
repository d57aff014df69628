"""One run of a daemon without its socket, in a given home; at its end the log is checked."""

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
from walrusd.store.tables.session import read_unfinished_sessions

PERMISSIONS = config.PermissionSettings(allow=("peek", "touch", "count", "bash"), default="deny")


class RunSpec(Struct, frozen=True, kw_only=True):
    """The parameters of a run. Without `kill_at` and `fault` it goes to its end."""

    folder: Path
    kill_at: int = 0
    """Number of the kill point, from 1; 0 means no kill."""
    fault: DiskFault | None = None
    on_restart: OnRestart = "continue"


class RunReport(Struct, frozen=True):
    """The report of a run that went to its end: the kill points it reached, and its outcome in words."""

    kill_points: list[KillPoint]
    outcome: str


def run_daemon(spec: RunSpec) -> RunReport:
    """Runs the daemon once. Raises AssertionError if a check of the log fails."""
    structlog.configure(processors=[_drop_log_line])
    kill_points = KillPoints(spec.kill_at)
    disk = FailingDisk(spec.fault)
    with fault_injecting_vfs(disk.before_step):
        outcome = trio.run(_run_and_check, spec, kill_points, disk, clock=trio.testing.MockClock())
    assert disk.has_failed == bool(spec.fault), "the run reached the fault"
    return RunReport(kill_points.reached, outcome)


def _drop_log_line(*_: object) -> dict[str, object]:
    raise structlog.DropEvent


async def _run_and_check(spec: RunSpec, kill_points: KillPoints, disk: FailingDisk) -> str:
    records, control = SideRecords(spec.folder), SchedulerControl(kill_points)
    if not (spec.folder / GO_PIPE).exists():
        os.mkfifo(spec.folder / GO_PIPE)
    log = await KillableLog.open(str(spec.folder / "walrus.db"), durability="full")
    assert isinstance(log, KillableLog)
    log.attach(kill_points, disk, records.record_draft)
    try:
        await _run_client(spec, log, control, disk, records)
        logs = await check_home(log, spec.folder, spec.on_restart)
        return describe_outcome([event for session_log in logs.values() for event in session_log.events], records)
    finally:
        await log.aclose()


async def _run_client(
    spec: RunSpec, log: KillableLog, control: SchedulerControl, disk: FailingDisk, records: SideRecords
) -> None:
    await kill_orphaned_tools(log, str(spec.folder))
    tools = ScriptedTools(control, spec.folder)
    async with KillableSpawner(0o77) as spawner:
        spawner.set_kill_points(control.kill_points)
        pipeline = Pipeline(
            tools.tools(),
            settings={},
            agents={},
            permissions=PERMISSIONS,
            clock=time.monotonic,
            spawner=spawner,
            home=str(spec.folder),
            redact=Redaction(),
        )
        hook = KillableHook(pipeline, control, tools, records, spec.folder)
        model = KillableModel(control, log, records)
        async with Runtime(model, hook, log=log, clock=lambda: 1e9, on_restart=spec.on_restart) as runtime:
            runtime.add_agent(Agent(name="walrus", workspace=str(spec.folder)))
            is_restart = await _record_start(log, records)
            client = ScriptedClient(runtime, log, control, disk, records, is_restart=is_restart)
            if is_restart:
                control.hold()
                await runtime.recover()
                await client.wait_settled()
            await client.run()


async def _record_start(log: KillableLog, records: SideRecords) -> bool:
    """Records the start and the open turns. Returns whether an earlier run has used this home."""
    is_restart = bool(records.read("start"))
    states = [await log.session_state(number) for number in await log.read(read_unfinished_sessions)]
    open_turns = [OpenTurn(state.id, state.turn.number, state.last_seq) for state in states if state and state.turn]
    records.write("start", value=open_turns)
    return is_restart
