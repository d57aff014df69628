"""The worker task of a session: it opens turns from the inbox, runs them, and ends when idle."""

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
from walrusd.runtime.recording.recorder import NO_EXTRAS, PreconditionFailed, TransactionExtras
from walrusd.runtime.registry.agents import AgentRegistry
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.drafts import DraftSaver
from walrusd.runtime.turns.turn_context import SessionTurnContext, is_uninterrupted, redact_error
from walrusd.session.recovery import Draft, OnRestart, choose_recovery_action, close_open_round, resume_open_turn
from walrusd.session.session_state import TurnState
from walrusd.store.errors import StorageFailed
from walrusd.store.tables.draft import SaveDraft
from walrusd.store.tables.inbox import Dequeue

logger = structlog.get_logger("walrusd.turn")

FINAL_DRAFT_TIMEOUT_S = 5.0
"""Maximum seconds that a turn cut off by the daemon's stop may take to write its draft."""
INITIAL_RETRY_S = 1.0
"""Seconds until a suspended turn first retries the store; each further wait is twice as long."""
MAX_RETRY_S = 30.0
"""Maximum seconds between two tries, so that they are no load on a disk that stays full."""

SESSION_BUG = Problem(
    "bug",
    "walrusd met a bug in this session",
    "The daemon's log has the details. A restart loads the session from its log again.",
)


def crashed_repeatedly(session: int) -> TurnError:
    """Returns the error of a turn that is not continued after a second crash."""
    return TurnError(
        "crashed_repeatedly",
        "walrusd crashed twice while this turn ran.",
        f"Try it again with `walrusctl session resume {session}`. `walrusctl logs` may show the cause.",
    )


def mark_suspended(live: LiveSession) -> None:
    """Records, without waiting, that the open turn was suspended before it began."""
    turn = live.session.turn
    assert turn is not None, "it was opened"
    draft = Draft(turn=turn.number, round=0, suspended=True)
    live.recorder.submit(extras=TransactionExtras(mutations=(SaveDraft(draft),)))


class WorkerContext(Struct, kw_only=True):
    """The services of all workers of a runtime. Model, hook and agents are replaced together."""

    model: Model
    agents: AgentRegistry
    draft_saver: DraftSaver
    slots: trio.Semaphore
    """One slot for each turn that may run at the same time."""
    on_restart: OnRestart
    redact: Callable[[str], str]
    """Redacts the secrets in the error of a turn."""
    stopping: bool = False
    is_clean_shutdown: bool = True
    """False if the runtime ends with an error, which any of the running turns may have caused."""


class Worker:
    """The worker of one session. It starts with a turn that is open already, or with the inbox."""

    def __init__(self, live: LiveSession, ctx: WorkerContext) -> None:
        self._live = live
        self._ctx = ctx
        self._timeout_s: float | None = None
        self._has_slot = False
        self._turn_number = 0
        self._retry_s = INITIAL_RETRY_S

    async def run(self) -> None:
        """Runs turns until nothing is left to do."""
        live = self._live
        recovering = live.session.turn is not None and live.admission.state != "handed_over"
        self._turn_number = live.session.state.turns
        try:
            while not self._ctx.stopping:
                try:
                    if live.admission.state == "handed_over":
                        self._timeout_s, self._has_slot = live.admission.take_over().timeout_s, True
                    elif live.admission.state == "handing_over":
                        return  # the task that opens the next turn also starts its worker
                    elif recovering:
                        recovering = False  # even if recording fails: the turn then ends with that storage error
                        if not await self._resume_or_close():
                            continue
                    elif live.session.turn is None and not await self._open_next():
                        return
                    await self._run_open_turn()
                    self._retry_s = INITIAL_RETRY_S
                except StorageFailed as failure:
                    await self._wait_for_store(failure)
                except Exception:
                    logger.exception("worker_crashed", session=live.id)
                    await self._fail_session()
                    return
                finally:
                    self._release_slot()
            if live.admission.state == "handed_over":
                mark_suspended(live)
        finally:
            self._has_slot = live.admission.end_worker()
            self._release_slot()

    async def _fail_session(self) -> None:
        """Fails all handles after a bug. No write may be pending when the worker ends: the session may be evicted."""
        if self._live.pending_draft_write:
            await self._live.pending_draft_write.wait()
        self._live.handles.fail_all(SESSION_BUG)

    async def _resume_or_close(self) -> bool:
        """Records how a turn that an earlier process left open continues; returns False if it does not run."""
        live, turn = self._live, self._live.session.turn
        assert turn is not None, "an earlier process left it open"
        action = choose_recovery_action(turn, live.draft, self._ctx.on_restart)
        remaining_s = self._remaining_s(turn)
        if action == "continue" and not live.inbox.has_forced_close and remaining_s != 0:
            await self._acquire_slot(within_s=remaining_s)
            if self._ctx.stopping:
                return False
        if live.is_interrupted:
            return True  # before the restart, or while it waited for a slot
        if live.inbox.has_forced_close:
            await self._record_interrupt("close")
        elif action == "continue" and not self._has_slot:
            await self._record_interrupt("timeout")
        elif action == "continue":
            await self._record_resume(turn)
        elif action == "give up":
            logger.error("turn_given_up", session=live.id, turn=turn.number, attempts=turn.attempt)
            await self._end_with_error(crashed_repeatedly(live.id))
            return False
        else:
            await self._record_interrupt("shutdown")
        return True

    async def _record_resume(self, turn: TurnState) -> None:
        """Records that the turn is resumed, unless it is interrupted meanwhile."""
        live = self._live
        self._timeout_s = self._remaining_s(turn)
        events = resume_open_turn(live.session.state, live.draft, self._is_idempotent)
        with contextlib.suppress(PreconditionFailed):
            await live.recorder.record(*events, extras=TransactionExtras(precondition=is_uninterrupted))
            [resumed] = [event for event in events if isinstance(event, TurnResumed)]
            logger.info(
                "turn_resumed", session=live.id, turn=turn.number, attempt=resumed.attempt, reason=resumed.reason
            )

    def _remaining_s(self, turn: TurnState) -> float | None:
        """Returns the seconds left of the timeout of a recovered turn, or None if it has no timeout."""
        if turn.timeout_s is None:
            return None
        remaining_s = turn.started_at + turn.timeout_s - self._live.deps.clock()
        return max(0, min(remaining_s, turn.timeout_s))  # the wall clock may have been set back

    def _is_idempotent(self, tool: str) -> bool:
        """Returns whether the agent's tool is idempotent now; False if the agent no longer exists."""
        with contextlib.suppress(Problem):
            schema = self._ctx.agents.get(self._live.session.state.agent).find_schema(tool)
            return schema is not None and schema.idempotent
        return False

    async def _acquire_slot(self, within_s: float | None = None) -> None:
        """Waits for a slot, or until the turn is not to be run any more."""
        with self._live.admission.waiting_for_slot(within_s):
            await self._ctx.slots.acquire()
            self._has_slot = True

    async def _open_next(self) -> bool:
        """Opens a turn from the inbox; returns False if the inbox is empty or the session is closed."""
        live = self._live
        if not live.inbox.entries:
            return False
        if live.session.state.state == "closed":
            # A second close was accepted while the first one was being recorded.
            dequeues = tuple(Dequeue(entry.place) for entry in live.inbox.entries)
            await live.recorder.record(extras=TransactionExtras(mutations=dequeues))
            return False
        if live.inbox.entries[0].kind != "close" and not live.inbox.has_forced_close:
            await self._acquire_slot()
            if self._ctx.stopping:
                return False
        entry = live.inbox.entries[0]  # chosen after the wait: a message that interrupts goes first
        match entry.kind:
            case "close":
                await live.recorder.record(
                    SessionClosed(by=entry.sender), extras=TransactionExtras(mutations=(Dequeue(entry.place),))
                )
                return await self._open_next()
            case "steer":
                kind: MessageKind = "message"  # too late for the turn that it was to steer
            case _:
                kind = entry.kind
        message = UserMessage(
            content=entry.content, sender=entry.sender, key=entry.key, kind=kind, timeout_s=entry.timeout_s
        )
        await live.recorder.record(message, extras=live.extras_for_dequeue(entry))
        self._timeout_s = entry.timeout_s
        if live.inbox.has_forced_close:
            await self._record_interrupt("close")
        return True

    async def _run_open_turn(self) -> None:
        """Runs the open turn to its `done`. Only this method decides how an exception ends a turn."""
        live, name = self._live, self._live.session.state.agent
        self._turn_number = live.session.state.turns
        try:
            # A turn that only has to end needs no agent definition, and its agent may have been removed.
            agent = Agent(name=name) if live.is_interrupted else self._ctx.agents.get(name)
            turn_context = SessionTurnContext(
                live, agent, self._ctx.model, self._ctx.agents.hook, self._ctx.draft_saver, self._ctx.redact
            )
            timeout_s = self._timeout_s
            while self._is_turn_open():
                with live.admission.cancellable_turn(timeout_s) as scope:
                    await run(agent, turn_context)
                if scope.cancelled_caught and self._is_turn_open() and not live.is_interrupted:
                    await self._record_interrupt("timeout")
                timeout_s = None  # only the end of the turn remains to be recorded
        except StorageFailed:
            raise
        except Problem as problem:
            await self._end_with_error(TurnError("internal", problem.message, problem.hint))
        except Exception:
            logger.exception("turn_crashed", session=live.id, agent=name)
            await self._end_with_error(
                TurnError("internal", "walrusd met a bug in this turn.", "The daemon's log has the details.")
            )
        except BaseException:  # cancelled; parallel calls raise an exception group
            with trio.move_on_after(FINAL_DRAFT_TIMEOUT_S, shield=True):
                await self._save_draft()
            raise

    def _is_turn_open(self) -> bool:
        """Returns whether the turn that this worker runs is open; the next one may have been opened already."""
        turn = self._live.session.turn
        return turn is not None and turn.number == self._turn_number

    async def _record_interrupt(self, reason: Literal["timeout", "close", "shutdown"]) -> None:
        await self._live.recorder.record(InterruptRequested(by="walrusd", reason=reason))

    async def _end_with_error(self, error: TurnError) -> None:
        """Records that the turn ended with `error`, or as interrupted if an interrupt came first."""
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
        live, done = self._live, redact_error(done, self._ctx.redact)
        try:
            await live.recorder.record(*close_open_round(live.session.state, live.draft), done, extras=extras)
        except UnicodeEncodeError:
            # The draft cannot be encoded: record the end of the turn without it.
            await live.recorder.record(*close_open_round(live.session.state, None), done, extras=extras)

    async def _save_draft(self) -> None:
        """Saves the draft of the open turn for the next start, because the daemon stops during the turn.

        A clean shutdown marks the draft as suspended; a stop because of an error does not.
        """
        if not self._is_turn_open():
            return
        live = self._live
        draft = replace(
            live.draft or Draft(turn=self._turn_number, round=0),
            suspended=self._ctx.stopping and self._ctx.is_clean_shutdown,
        )
        with contextlib.suppress(StorageFailed):  # the turn stays open in the log; nothing else can be saved now
            await live.recorder.record(extras=TransactionExtras(mutations=(SaveDraft(draft),)))

    async def _wait_for_store(self, failure: StorageFailed) -> None:
        """Suspends the worker until the store can record how the turn ended; nothing is published meanwhile."""
        live, turn = self._live, self._live.session.turn
        self._release_slot()
        logger.error(
            "turn_suspended",
            session=live.id,
            turn=turn.number if turn is not None else None,
            kind=failure.kind,
            error=str(failure),
        )
        live.handles.fail_turn(failure)
        with live.admission.suspension():
            await self._retry_until_written(failure)

    async def _retry_until_written(self, failure: StorageFailed) -> None:
        """Retries to record the end of the turn until the store can, or the runtime stops."""
        while not self._ctx.stopping:
            await self._live.admission.wait_retry(self._retry_s)
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
