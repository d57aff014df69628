"""A session's only task while it has work: it opens turns from the inbox, runs them, and ends when there are none."""

import contextlib
from collections.abc import Callable
from typing import Literal

import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_protocol.content import MessageKind, TurnError
from walrus_protocol.events import Done, InterruptRequested, SessionClosed, TurnResumed, UserMessage
from walrus_protocol.problems import Problem
from walrusd.agent.agent import Agent
from walrusd.agent.decide import EndTurn, decide
from walrusd.agent.loop import run
from walrusd.ports import Model
from walrusd.runtime.hook import Hook
from walrusd.runtime.recording.recorder import NO_EXTRAS, PreconditionFailed, TransactionExtras
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.sessions.live_session import AdmittedTurn, LiveSession
from walrusd.runtime.turns.drafts import DraftSaver
from walrusd.runtime.turns.turn_context import SessionTurnContext, is_uninterrupted
from walrusd.session.recovery import Draft, OnRestart, choose_recovery_action, close_open_round, resume_open_turn
from walrusd.session.session_state import TurnState
from walrusd.store.contract import StorageFailed

logger = structlog.get_logger("walrusd.turn")

FINAL_DRAFT_TIMEOUT_S = 5.0
"""How long a turn that is cut off by the daemon's stop may take to write down what was said."""
INITIAL_RETRY_S = 1.0
MAX_RETRY_S = 30.0
"""How often a suspended turn asks the store again: soon at first, and not a burden on a disk that stays full."""

SESSION_BUG = Problem(
    "bug", "walrusd met a bug in this session", "The daemon's log has the details; a restart folds it anew."
)


def crashed_repeatedly(session: int) -> TurnError:
    return TurnError(
        "crashed_repeatedly",
        "walrusd went down twice while this turn ran.",
        f"It is not tried again by itself; `walrusctl session resume {session}` does. `walrusctl logs` may say why.",
    )


def mark_suspended(live: LiveSession) -> None:
    """Have it written that the open turn was never begun: the daemon stops, and nobody waits for this."""
    turn = live.session.turn
    assert turn is not None, "it was opened"
    live.recorder.submit(extras=TransactionExtras(draft=Draft(turn=turn.number, round=0, suspended=True)))


class WorkerContext(Struct, kw_only=True):
    """What all workers of a runtime share. Model, hook and agents may be replaced, all at once, between two turns."""

    model: Model
    hook: Hook
    agents: AgentRegistry
    draft_saver: DraftSaver
    slots: trio.Semaphore
    """Running turns."""
    on_restart: OnRestart
    is_stopping: Callable[[], bool]
    is_clean_shutdown: Callable[[], bool]
    """Whether it is stopping because somebody wants that, and not by an error of its own."""


class Worker:
    """Works for one session. It starts with a turn that is open already, or with the inbox."""

    def __init__(self, live: LiveSession, ctx: WorkerContext) -> None:
        self._live = live
        self._ctx = ctx
        self._timeout_s: float | None = None
        self._has_slot = False
        self._turn_number = 0
        self._retry_s = INITIAL_RETRY_S

    async def run(self, admitted: AdmittedTurn | None) -> None:
        """Until nothing is left to do."""
        live = self._live
        live.next_turn = admitted
        left_over = live.session.turn is not None and admitted is None
        self._turn_number = live.session.state.turns
        try:
            while not self._ctx.is_stopping():
                try:
                    if live.next_turn:
                        self._timeout_s, self._has_slot, live.next_turn = live.next_turn.timeout_s, True, None
                    elif live.opening:
                        return  # whoever opens the next turn sees to its worker
                    elif left_over:
                        left_over = False  # also where this cannot be recorded: then it ends for that reason
                        if not await self._resume_or_close():
                            continue
                    elif live.session.turn is None and not await self._open_next():
                        return
                    await self._run_open_turn()
                    self._retry_s = INITIAL_RETRY_S
                except StorageFailed as failure:
                    await self._wait_for_store(failure)
                except Exception:
                    logger.exception("worker crashed", session=live.id)
                    live.fail_all_handles(SESSION_BUG)
                    return
                finally:
                    self._release_slot()
            if live.next_turn:
                mark_suspended(live)
        finally:
            live.has_worker = False

    async def _resume_or_close(self) -> bool:
        """See what becomes of the turn that an earlier process has left open; False where it is not to be run."""
        live, turn = self._live, self._live.session.turn
        assert turn is not None, "it was left open"
        then = choose_recovery_action(turn, live.draft, self._ctx.on_restart)
        left_s = self._remaining_s(turn)
        if then == "go on" and not live.has_forced_close and left_s != 0:
            await self._acquire_slot(within_s=left_s)
            if self._ctx.is_stopping():
                return False
        if live.is_interrupted:
            return True  # before, or while it waited
        if live.has_forced_close:
            await self._record_interrupt("close")
        elif then == "go on" and not self._has_slot:
            await self._record_interrupt("timeout")
        elif then == "go on":
            await self._record_resume(turn)
        elif then == "give up":
            logger.error("turn given up", session=live.id, turn=turn.number, attempts=turn.attempt)
            await self._end_with_error(crashed_repeatedly(live.id))
            return False
        else:
            await self._record_interrupt("shutdown")
        return True

    async def _record_resume(self, turn: TurnState) -> None:
        """Record that the turn goes on, unless it is interrupted meanwhile."""
        live = self._live
        self._timeout_s = self._remaining_s(turn)
        events = resume_open_turn(live.session.state, live.draft, self._is_idempotent)
        with contextlib.suppress(PreconditionFailed):
            await live.recorder.record(*events, extras=TransactionExtras(precondition=is_uninterrupted))
            [resumed] = [event for event in events if isinstance(event, TurnResumed)]
            logger.info(
                "turn resumed", session=live.id, turn=turn.number, attempt=resumed.attempt, reason=resumed.reason
            )

    def _remaining_s(self, turn: TurnState) -> float | None:
        """Of the time that a turn has which an earlier process began; None where it has no end."""
        if turn.timeout_s is None:
            return None
        left_s = turn.started_at + turn.timeout_s - self._live.deps.clock()
        return max(0, min(left_s, turn.timeout_s))  # the time of day may have been set back

    def _is_idempotent(self, tool: str) -> bool:
        """As the agent has it now. Where that is gone, nothing is."""
        with contextlib.suppress(Problem):
            schema = self._ctx.agents.get(self._live.session.state.agent).find_schema(tool)
            return schema is not None and schema.idempotent
        return False

    async def _acquire_slot(self, within_s: float | None = None) -> None:
        """Wait for one, or until the turn is not to be run any more."""
        live = self._live
        with trio.CancelScope() as live.slot_wait:
            if within_s is not None:
                live.slot_wait.deadline = trio.current_time() + within_s
            await self._ctx.slots.acquire()
            self._has_slot = True
        live.slot_wait = None

    async def _open_next(self) -> bool:
        """Open a turn from the inbox; False when it is empty or the session is closed."""
        live = self._live
        if not live.inbox:
            return False
        if live.session.state.state == "closed":
            # A second close was accepted while the first was being recorded.
            await live.recorder.record(extras=TransactionExtras(dequeue=tuple(queued.place for queued in live.inbox)))
            return False
        if live.inbox[0].kind != "close" and not live.has_forced_close:
            await self._acquire_slot()
            if self._ctx.is_stopping():
                return False
        queued = live.inbox[0]  # chosen only now: what was sent to interrupt goes first
        match queued.kind:
            case "close":
                await live.recorder.record(
                    SessionClosed(by=queued.sender), extras=TransactionExtras(dequeue=(queued.place,))
                )
                return await self._open_next()
            case "steer":
                kind: MessageKind = "message"  # it missed the turn that it was to steer
            case _:
                kind = queued.kind
        message = UserMessage(
            content=queued.content, sender=queued.sender, key=queued.key, kind=kind, timeout_s=queued.timeout_s
        )
        await live.recorder.record(message, extras=live.extras_for_dequeue(queued))
        self._timeout_s = queued.timeout_s
        if live.has_forced_close:
            await self._record_interrupt("close")
        return True

    async def _run_open_turn(self) -> None:
        """Run the open turn to its `done`. One guard decides here what an exception means."""
        live, name = self._live, self._live.session.state.agent
        self._turn_number = live.session.state.turns
        try:
            # A turn that only has to be ended needs no definition, and its agent's may be gone.
            agent = Agent(name=name) if live.is_interrupted else self._ctx.agents.get(name)
            await self._run_agent(
                agent, SessionTurnContext(live, agent, self._ctx.model, self._ctx.hook, self._ctx.draft_saver)
            )
        except StorageFailed:
            raise
        except Problem as gone:
            await self._end_with_error(TurnError("internal", gone.message, gone.hint))
        except Exception:
            logger.exception("turn crashed", session=live.id, agent=name)
            await self._end_with_error(
                TurnError("internal", "walrusd met a bug in this turn.", "The daemon's log has the details.")
            )
        except BaseException:  # cancelled: of calls side by side that is told in a group
            with trio.move_on_after(FINAL_DRAFT_TIMEOUT_S, shield=True):
                await self._save_draft()
            raise

    def _is_turn_open(self) -> bool:
        """Whether the turn that it runs is; the next may have been opened, for it to run after this."""
        turn = self._live.session.turn
        return turn is not None and turn.number == self._turn_number

    async def _run_agent(self, agent: Agent, turn_context: SessionTurnContext) -> None:
        live, timeout_s = self._live, self._timeout_s
        while self._is_turn_open():
            with trio.CancelScope() as live.turn_scope:
                if timeout_s is not None:
                    live.turn_scope.deadline = trio.current_time() + timeout_s
                await run(agent, turn_context)
            cut, live.turn_scope = live.turn_scope.cancelled_caught, None
            if cut and self._is_turn_open() and not live.is_interrupted:
                await self._record_interrupt("timeout")
            timeout_s = None  # what is left is to record how it ended

    async def _record_interrupt(self, reason: Literal["timeout", "close", "shutdown"]) -> None:
        await self._live.recorder.record(InterruptRequested(by="walrusd", reason=reason))

    async def _end_with_error(self, error: TurnError) -> None:
        """Record that the turn ended in `error`, or as an interrupt that came before that wants it."""
        live = self._live
        while self._is_turn_open():
            match decide(Agent(name=""), live.session.state):
                case EndTurn("interrupted", reason):
                    await self._record_done(Done(stop_reason="interrupted", error=reason), NO_EXTRAS)
                case _:
                    with contextlib.suppress(PreconditionFailed):
                        await self._record_done(
                            Done(stop_reason="error", error=error), TransactionExtras(precondition=is_uninterrupted)
                        )

    async def _record_done(self, done: Done, extras: TransactionExtras) -> None:
        live = self._live
        try:
            await live.recorder.record(*close_open_round(live.session.state, live.draft), done, extras=extras)
        except UnicodeEncodeError:
            # What was said is what cannot be written; then the end of the turn is, without it.
            await live.recorder.record(*close_open_round(live.session.state, None), done, extras=extras)

    async def _save_draft(self) -> None:
        """The daemon ends in mid-turn: what was said stays beside the log for the next start.

        And so does that it was set aside, where that is so: a daemon that falls over does not say it.
        """
        if not self._is_turn_open():
            return
        live = self._live
        draft = replace(live.draft or Draft(turn=self._turn_number, round=0), suspended=self._ctx.is_clean_shutdown())
        with contextlib.suppress(StorageFailed):  # the log has it; there is nothing more to be done now
            await live.recorder.record(extras=TransactionExtras(draft=draft))

    async def _wait_for_store(self, failure: StorageFailed) -> None:
        """Nothing more is published as fact until the store can record how the turn ended."""
        live, turn = self._live, self._live.session.turn
        self._release_slot()
        logger.error(
            "turn suspended",
            session=live.id,
            turn=turn.number if turn is not None else None,
            kind=failure.kind,
            error=str(failure),
        )
        live.fail_turn_handles(Problem(failure.kind, str(failure), failure.hint))
        live.suspended = True
        try:
            await self._retry_until_written(failure)
        finally:
            live.suspended = False

    async def _retry_until_written(self, failure: StorageFailed) -> None:
        """Ask the store again and again whether it can record how the turn ended."""
        live = self._live
        while not self._ctx.is_stopping():
            with trio.move_on_after(self._retry_s):
                await live.retry_now.wait()
            live.retry_now = trio.Event()
            self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
            try:
                await self._end_with_error(TurnError("storage", str(failure), failure.hint))
            except StorageFailed:
                continue
            return

    def _release_slot(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._ctx.slots.release()
