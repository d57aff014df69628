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
from walrusd.agent.decide import Rest, decide
from walrusd.agent.loop import run
from walrusd.ports import Model
from walrusd.runtime.agents import Agents
from walrusd.runtime.drafts import Drafts
from walrusd.runtime.hook import Hook
from walrusd.runtime.record import NOTHING, Beside, Overtaken
from walrusd.runtime.sessions import LiveSession, Opened
from walrusd.runtime.turn import LiveTurn, uninterrupted
from walrusd.session.mend import Draft, OnRestart, fate, mend, resume
from walrusd.session.outline import Turn
from walrusd.store.log import StorageFailed

log = structlog.get_logger("walrusd.turn")

LAST_DRAFT_S = 5.0
"""How long a turn that is cut off by the daemon's stop may take to write down what was said."""
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 30.0
"""How often a suspended turn asks the store again: soon at first, and not a burden on a disk that stays full."""

BUG = Problem("bug", "walrusd met a bug in this session", "The daemon's log has the details; a restart folds it anew.")


def crashed_repeatedly(session: int) -> TurnError:
    return TurnError(
        "crashed_repeatedly",
        "walrusd went down twice while this turn ran.",
        f"It is not tried again by itself; `walrusctl session resume {session}` does. `walrusctl logs` may say why.",
    )


def set_aside(live: LiveSession) -> None:
    """Have it written that the open turn was never begun: the daemon stops, and nobody waits for this."""
    turn = live.session.turn
    assert turn is not None, "it was opened"
    live.recorder.submit(beside=Beside(draft=Draft(turn=turn.number, round=0, suspended=True)))


class Workshop(Struct, kw_only=True):
    """What all workers of a runtime share. Model, hook and agents may be replaced, all at once, between two turns."""

    model: Model
    hook: Hook
    agents: Agents
    drafts: Drafts
    slots: trio.Semaphore
    """Running turns."""
    on_restart: OnRestart
    stopping: Callable[[], bool]
    in_order: Callable[[], bool]
    """Whether it is stopping because somebody wants that, and not by an error of its own."""


class Worker:
    """Works for one session. It starts with a turn that is open already, or with the inbox."""

    def __init__(self, live: LiveSession, shop: Workshop) -> None:
        self._live = live
        self._shop = shop
        self._timeout_s: float | None = None
        self._has_slot = False
        self._number = 0
        self._retry_s = RETRY_FIRST_S

    async def work(self, opened: Opened | None) -> None:
        """Until nothing is left to do."""
        live = self._live
        live.handed = opened
        left_over = live.session.turn is not None and opened is None
        self._number = live.session.outline.turns
        try:
            while not self._shop.stopping():
                try:
                    if live.handed:
                        self._timeout_s, self._has_slot, live.handed = live.handed.timeout_s, True, None
                    elif live.claimed:
                        return  # whoever opens the next turn sees to its worker
                    elif left_over:
                        left_over = False  # also where this cannot be recorded: then it ends for that reason
                        if not await self._take_up():
                            continue
                    elif live.session.turn is None and not await self._take():
                        return
                    await self._turn()
                    self._retry_s = RETRY_FIRST_S
                except StorageFailed as failure:
                    await self._suspended(failure)
                except Exception:
                    log.exception("worker crashed", session=live.id)
                    live.refuse_all(BUG)
                    return
                finally:
                    self._give_slot_back()
            if live.handed:
                set_aside(live)
        finally:
            live.working = False

    async def _take_up(self) -> bool:
        """See what becomes of the turn that an earlier process has left open; False where it is not to be run."""
        live, turn = self._live, self._live.session.turn
        assert turn is not None, "it was left open"
        then = fate(turn, live.draft, self._shop.on_restart)
        left_s = self._left_s(turn)
        if then == "go on" and not live.forced and left_s != 0:
            await self._take_slot(within_s=left_s)
            if self._shop.stopping():
                return False
        if live.interrupted:
            return True  # before, or while it waited
        if live.forced:
            await self._interrupt("close")
        elif then == "go on" and not self._has_slot:
            await self._interrupt("timeout")
        elif then == "go on":
            await self._resume(turn)
        elif then == "give up":
            log.error("turn given up", session=live.id, turn=turn.number, attempts=turn.attempt)
            await self._end(crashed_repeatedly(live.id))
            return False
        else:
            await self._interrupt("shutdown")
        return True

    async def _resume(self, turn: Turn) -> None:
        """Record that the turn goes on, unless it is interrupted meanwhile."""
        live = self._live
        self._timeout_s = self._left_s(turn)
        events = resume(live.session.outline, live.draft, self._is_idempotent)
        with contextlib.suppress(Overtaken):
            await live.recorder.record(*events, beside=Beside(only_if=uninterrupted))
            [resumed] = [event for event in events if isinstance(event, TurnResumed)]
            log.info("turn resumed", session=live.id, turn=turn.number, attempt=resumed.attempt, reason=resumed.reason)

    def _left_s(self, turn: Turn) -> float | None:
        """Of the time that a turn has which an earlier process began; None where it has no end."""
        if turn.timeout_s is None:
            return None
        left_s = turn.started_at + turn.timeout_s - self._live.shared.clock()
        return max(0, min(left_s, turn.timeout_s))  # the time of day may have been set back

    def _is_idempotent(self, tool: str) -> bool:
        """As the agent has it now. Where that is gone, nothing is."""
        with contextlib.suppress(Problem):
            schema = self._shop.agents.get(self._live.session.outline.agent).schema(tool)
            return schema is not None and schema.idempotent
        return False

    async def _take_slot(self, within_s: float | None = None) -> None:
        """Wait for one, or until the turn is not to be run any more."""
        live = self._live
        with trio.CancelScope() as live.parked:
            if within_s is not None:
                live.parked.deadline = trio.current_time() + within_s
            await self._shop.slots.acquire()
            self._has_slot = True
        live.parked = None

    async def _take(self) -> bool:
        """Open a turn from the inbox; False when it is empty or the session is closed."""
        live = self._live
        if not live.inbox:
            return False
        if live.session.outline.state == "closed":
            # A second close was accepted while the first was being recorded.
            await live.recorder.record(beside=Beside(dequeue=tuple(queued.place for queued in live.inbox)))
            return False
        if live.inbox[0].kind != "close" and not live.forced:
            await self._take_slot()
            if self._shop.stopping():
                return False
        queued = live.inbox[0]  # chosen only now: what was sent to interrupt goes first
        match queued.kind:
            case "close":
                await live.recorder.record(SessionClosed(by=queued.sender), beside=Beside(dequeue=(queued.place,)))
                return await self._take()
            case "steer":
                kind: MessageKind = "message"  # it missed the turn that it was to steer
            case _:
                kind = queued.kind
        message = UserMessage(
            content=queued.content, sender=queued.sender, key=queued.key, kind=kind, timeout_s=queued.timeout_s
        )
        await live.recorder.record(message, beside=live.taking(queued))
        self._timeout_s = queued.timeout_s
        if live.forced:
            await self._interrupt("close")
        return True

    async def _turn(self) -> None:
        """Run the open turn to its `done`. One guard decides here what an exception means."""
        live, name = self._live, self._live.session.outline.agent
        self._number = live.session.outline.turns
        try:
            # A turn that only has to be ended needs no definition, and its agent's may be gone.
            agent = Agent(name=name) if live.interrupted else self._shop.agents.get(name)
            await self._run(agent, LiveTurn(live, agent, self._shop.model, self._shop.hook, self._shop.drafts))
        except StorageFailed:
            raise
        except Problem as gone:
            await self._end(TurnError("internal", gone.message, gone.hint))
        except Exception:
            log.exception("turn crashed", session=live.id, agent=name)
            await self._end(
                TurnError("internal", "walrusd met a bug in this turn.", "The daemon's log has the details.")
            )
        except BaseException:  # cancelled: of calls side by side that is told in a group
            with trio.move_on_after(LAST_DRAFT_S, shield=True):
                await self._keep_draft()
            raise

    def _is_open(self) -> bool:
        """Whether the turn that it runs is; the next may have been opened, for it to run after this."""
        turn = self._live.session.turn
        return turn is not None and turn.number == self._number

    async def _run(self, agent: Agent, turn: LiveTurn) -> None:
        live, timeout_s = self._live, self._timeout_s
        while self._is_open():
            with trio.CancelScope() as live.scope:
                if timeout_s is not None:
                    live.scope.deadline = trio.current_time() + timeout_s
                await run(agent, turn)
            cut, live.scope = live.scope.cancelled_caught, None
            if cut and self._is_open() and not live.interrupted:
                await self._interrupt("timeout")
            timeout_s = None  # what is left is to record how it ended

    async def _interrupt(self, reason: Literal["timeout", "close", "shutdown"]) -> None:
        await self._live.recorder.record(InterruptRequested(by="walrusd", reason=reason))

    async def _end(self, error: TurnError) -> None:
        """Record that the turn ended in `error`, or as an interrupt that came before that wants it."""
        live = self._live
        while self._is_open():
            match decide(Agent(name=""), live.session.outline):
                case Rest("interrupted", reason):
                    await self._finish(Done(stop_reason="interrupted", error=reason), NOTHING)
                case _:
                    with contextlib.suppress(Overtaken):
                        await self._finish(Done(stop_reason="error", error=error), Beside(only_if=uninterrupted))

    async def _finish(self, done: Done, beside: Beside) -> None:
        live = self._live
        try:
            await live.recorder.record(*mend(live.session.outline, live.draft), done, beside=beside)
        except UnicodeEncodeError:
            # What was said is what cannot be written; then the end of the turn is, without it.
            await live.recorder.record(*mend(live.session.outline, None), done, beside=beside)

    async def _keep_draft(self) -> None:
        """The daemon ends in mid-turn: what was said stays beside the log for the next start.

        And so does that it was set aside, where that is so: a daemon that falls over does not say it.
        """
        if not self._is_open():
            return
        live = self._live
        draft = replace(live.draft or Draft(turn=self._number, round=0), suspended=self._shop.in_order())
        with contextlib.suppress(StorageFailed):  # the log has it; there is nothing more to be done now
            await live.recorder.record(beside=Beside(draft=draft))

    async def _suspended(self, failure: StorageFailed) -> None:
        """Nothing more is published as fact until the store can record how the turn ended."""
        live, turn = self._live, self._live.session.turn
        self._give_slot_back()
        log.error(
            "turn suspended",
            session=live.id,
            turn=turn.number if turn is not None else None,
            kind=failure.kind,
            error=str(failure),
        )
        live.refuse_waiting(Problem(failure.kind, str(failure), failure.hint))
        live.suspended = True
        try:
            await self._until_written(failure)
        finally:
            live.suspended = False

    async def _until_written(self, failure: StorageFailed) -> None:
        """Ask the store again and again whether it can record how the turn ended."""
        live = self._live
        while not self._shop.stopping():
            with trio.move_on_after(self._retry_s):
                await live.poke.wait()
            live.poke = trio.Event()
            self._retry_s = min(self._retry_s * 2, RETRY_MOST_S)
            try:
                await self._end(TurnError("storage", str(failure), failure.hint))
            except StorageFailed:
                continue
            return

    def _give_slot_back(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._shop.slots.release()
