"""Runs a tick of a heartbeat: sends the agent its prompt, unless its probe shows no change."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, tzinfo
from typing import Literal

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_config import schema
from walrus_protocol.events import Tick, TurnRef
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.turns.inbox import MessageRequest
from walrusd.runtime.turns.turn_handle import TurnHandle
from walrusd.schedule import breaker, heartbeat_prompt
from walrusd.schedule.job import STOPPING_REASON, STORE_RETRY_S, Job, OnTurnStart, TickResult, idempotency_key_for
from walrusd.schedule.probe import ProbeFailed, ProbeResult
from walrusd.schedule.slot_policy import Cadence, Grid, QuietHours, SlotDecision, next_decision
from walrusd.schedule.todo_file import TodoUnreadable
from walrusd.store.tables.schedule import ScheduleRow

ACTOR = "heartbeat"
CLOSE_TIMEOUT_S = 10.0
"""Maximum seconds to wait for a durable close of a tick's session, also while walrusd is stopping."""
UNCHANGED_REASON = "the probe result is unchanged"
_SKIPPED_KINDS = frozenset({"session_busy", "inbox_full", "session_closed"})
"""Kinds of problem that make a tick skipped, not failed: the next slot may not meet them."""
_STORAGE_KINDS = frozenset({"storage_full", "storage_failed"})
_NO_ANSWER_REASONS = {
    "max_iterations": "the agent used up its rounds without a final answer",
    "no_action": "the model returned neither text nor tool calls",
    "interrupted": "the turn was interrupted",
    "budget_exceeded": "the turn exceeded its budget",
}

RunProbe = Callable[[str, str], Awaitable[ProbeResult]]
"""Runs a command (first argument) in a folder (second argument). Raises ProbeFailed."""
ReadTodo = Callable[[str], Awaitable[heartbeat_prompt.PendingWork | None]]
"""Returns the pending work of an agent, or None if there is none. Raises TodoUnreadable."""


class HeartbeatDeps(Struct, frozen=True, kw_only=True):
    """The dependencies that all heartbeats share."""

    runtime: Runtime
    run_probe: RunProbe
    read_todo: ReadTodo
    zone: tzinfo | None = None
    """The local time zone; None means that of the machine."""


class Heartbeat(Struct, frozen=True, kw_only=True):
    """The heartbeat of one agent; implements Job."""

    agent: str
    settings: schema.HeartbeatSettings
    grid: Grid
    cadence: Cadence
    workspace: str
    deps: HeartbeatDeps

    @property
    def name(self) -> str:
        return f"heartbeat:{self.agent}"

    @property
    def kind(self) -> Literal["heartbeat"]:
        return "heartbeat"

    @property
    def every_s(self) -> float:
        return self.grid.every_s

    @property
    def retry_base_s(self) -> float:
        return self.grid.every_s

    def next_after(self, time: float) -> float:
        return self.grid.next_after(time)

    def moved_slot(self, before: Job, next_slot: float, now: float) -> float:
        if before.every_s == self.every_s:
            return next_slot
        return self.grid.moved_slot(Grid(before.every_s), next_slot, now)

    def next_decision(self, row: ScheduleRow, now: float, *, running: bool) -> SlotDecision:
        return next_decision(row, self.cadence, now, running=running)

    async def run(self, row: ScheduleRow, tick: Tick, on_turn_start: OnTurnStart) -> TickResult | None:
        probed = None
        if command := self.settings.probe:
            try:
                probed = await self.deps.run_probe(command, self.workspace)
            except ProbeFailed as failed:
                return TickResult(outcome="failed", reason=f"probe: {failed}", news=True)
            if probed.digest == row.seen:
                return TickResult(outcome="skipped", reason=UNCHANGED_REASON)
        pending, unreadable = [], ""
        try:
            pending += [found] if (found := await self.deps.read_todo(self.agent)) else []
        except TodoUnreadable as failed:
            unreadable = str(failed)
        if probed:
            title = f"Output of `{command}` (exit status {probed.exit_status}):"
            pending.append(heartbeat_prompt.PendingWork(title, probed.output))
        message = heartbeat_prompt.build_message(self.settings.prompt, pending)
        result = await self._run_turn(row, tick, message, on_turn_start)
        return result and _add_probe_outcome(result, probed, unreadable)

    async def _run_turn(
        self, row: ScheduleRow, tick: Tick, prompt: str, on_turn_start: OnTurnStart
    ) -> TickResult | None:
        message = MessageRequest(content=prompt, when_busy="reject", kind="heartbeat")
        if self.settings.session == "same":
            return await _wait_result(self._send_to_same_session(row, message, on_turn_start))
        slot = datetime.fromtimestamp(tick.slot, self.deps.zone)
        try:
            session = await self.deps.runtime.create_session(
                self.agent,
                ACTOR,
                title=f"heartbeat of {self.agent}, {slot:%Y-%m-%d %H:%M}",
                key=idempotency_key_for(tick),
            )
        except Problem as problem:
            return _result_of_problem(problem)
        result = await _wait_result(self._send_to_new_session(session, message, on_turn_start))
        if result:
            await self._close_with_retry(session)
        return result

    async def _send_to_new_session(
        self, session: int, message: MessageRequest, on_turn_start: OnTurnStart
    ) -> TurnHandle:
        """Sends the message, then requests the close: the session closes after its turn, despite crashes."""
        runtime = self.deps.runtime
        try:
            await on_turn_start(TurnRef(session=session, turn=1), None)
            return await runtime.send(session, message)
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True), suppress(Problem):
                await runtime.close_session(session, by=ACTOR)

    async def _close_with_retry(self, session: int) -> None:
        """Closes the session, and retries while the store cannot write.

        The final row of the tick is written only after that.
        """
        while True:
            try:
                await self.deps.runtime.close_session(session, by=ACTOR)
            except Problem as problem:
                if problem.kind not in _STORAGE_KINDS:
                    return
                await trio.sleep(STORE_RETRY_S)
            else:
                return

    async def _send_to_same_session(
        self, row: ScheduleRow, message: MessageRequest, on_turn_start: OnTurnStart
    ) -> TurnHandle:
        runtime = self.deps.runtime
        session = row.session if row.session and await self._is_open(row.session) else None
        if session is None:
            # With the key a crash before the session is recorded does not lead to a second session.
            key = f"{self.name} after {row.session or 0}"
            session = await runtime.create_session(self.agent, ACTOR, title=f"heartbeats of {self.agent}", key=key)
        async with runtime.session_cache.lease(session) as live:
            turn = live.session.state.turns + 1
        await on_turn_start(TurnRef(session=session, turn=turn), session)
        return await runtime.send(session, message)

    async def _is_open(self, session: int) -> bool:
        try:
            return (await self.deps.runtime.session(session)).state != "closed"
        except Problem as problem:
            if problem.kind == "session_not_found":
                return False
            raise


async def _wait_result(sending: Awaitable[TurnHandle]) -> TickResult | None:
    try:
        handle = await sending
    except Problem as problem:
        return _result_of_problem(problem)
    try:
        return _result_of_turn(await handle.wait_result())
    except Problem as problem:
        if problem.kind == "shutting_down":
            return None
        unfinished = TurnRef(session=handle.session, turn=handle.turn) if handle.turn else None
        return _failed_result(problem.kind, problem.message, unfinished)


def build_heartbeats(config: schema.Config, deps: HeartbeatDeps) -> list[Heartbeat]:
    """Returns the heartbeats of all agents whose interval is not 0."""
    return [
        Heartbeat(
            agent=agent.name,
            settings=agent.heartbeat,
            grid=(grid := Grid(agent.heartbeat.interval * 60)),
            cadence=Cadence(
                slots=grid,
                jitter_s=agent.heartbeat.jitter_s,
                quiet_hours=_parse_quiet_hours(agent.heartbeat.quiet_hours),
                zone=deps.zone,
            ),
            workspace=agent.workspace,
            deps=deps,
        )
        for agent in config.agents.values()
        if agent.heartbeat.interval > 0
    ]


def _parse_quiet_hours(hours: tuple[str, ...]) -> QuietHours | None:
    if not hours:
        return None
    start, end = (int(hour[:2]) * 60 + int(hour[3:]) for hour in hours)
    return QuietHours(start_minute=start, end_minute=end)


def _result_of_turn(result: TurnResult) -> TickResult:
    ran = TurnRef(session=result.session, turn=result.turn, cost_usd=result.cost_usd)
    text = result.text[: heartbeat_prompt.MAX_STORED_ANSWER]
    if result.stop_reason == "text_response":
        return TickResult(outcome="ran", ran=ran, text=text, news=heartbeat_prompt.is_news(result.text))
    if error := result.error:
        return _failed_result(
            error.kind, error.message, ran, text, opens_breaker=error.kind in breaker.IMMEDIATE_OPEN_KINDS
        )
    return _failed_result(
        result.stop_reason, _NO_ANSWER_REASONS.get(result.stop_reason, "the turn has no answer"), ran, text
    )


def _result_of_problem(problem: Problem) -> TickResult:
    if problem.kind == "shutting_down":
        return TickResult(outcome="skipped", reason=STOPPING_REASON)
    if problem.kind in _SKIPPED_KINDS:
        return TickResult(outcome="skipped", reason=problem.message)
    return _failed_result(problem.kind, problem.message)


def _failed_result(
    kind: str, message: str, ran: TurnRef | None = None, text: str = "", *, opens_breaker: bool = False
) -> TickResult:
    """Returns a failed result. Its reason begins with `kind`: the kind of an error, or a stop reason."""
    return TickResult(
        outcome="failed", reason=f"{kind}: {message}", ran=ran, text=text, news=True, opens_breaker=opens_breaker
    )


def _add_probe_outcome(result: TickResult, probe: ProbeResult | None, unreadable: str) -> TickResult:
    """Adds the message about an unreadable to-do list, and the probe's digest if the agent has answered."""
    reason = "; ".join(filter(None, (result.reason, unreadable)))
    return replace(result, reason=reason, probe_digest=probe.digest if probe and result.outcome == "ran" else None)
