"""A heartbeat: an agent is woken with its prompt and what waits for it, unless its probe says that nothing is new."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, tzinfo
from typing import Literal

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_config import schema
from walrus_protocol.events import Ran, Tick
from walrus_protocol.methods import TurnResult
from walrus_protocol.problems import Problem
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.runtime.tickets import Ticket
from walrusd.schedule import breaker, wording
from walrusd.schedule.job import RETRY_S, STOPPING, Begun, Ended, key_of
from walrusd.schedule.pending import Source, Unreadable
from walrusd.schedule.probe import Probed, ProbeFailed
from walrusd.schedule.slots import Decision, Quiet, Rhythm, look
from walrusd.store.log import Schedule

BY = "heartbeat"
CLOSE_S = 10.0
"""How long the close of a tick's session may take to be durable, also where walrusd is stopping."""
UNCHANGED = "the probe says what it said before"
_NOT_NOW = frozenset({"session_busy", "inbox_full", "session_closed"})
"""Kinds of a send's refusal that another slot may not meet: nothing has failed."""
_OF_THE_STORE = frozenset({"storage_full", "storage_failed"})
_WITHOUT_ANSWER = {
    "max_iterations": "the agent used up its rounds without a final answer",
    "no_action": "the model neither said nor asked for anything",
    "interrupted": "the turn was interrupted",
    "budget_exceeded": "the turn went over its budget",
}

Probe = Callable[[str, str], Awaitable[Probed]]
"""Run a command in a folder. Raises ProbeFailed."""


class Means(Struct, frozen=True, kw_only=True):
    """What all heartbeats work with."""

    runtime: Runtime
    probe: Probe
    sources: Sequence[Source] = ()
    zone: tzinfo | None = None
    """Of the clock on the wall. None: the machine's own."""


class Heartbeat(Struct, frozen=True, kw_only=True):
    """Fills Job."""

    agent: str
    settings: schema.Heartbeat
    rhythm: Rhythm
    workspace: str
    means: Means

    @property
    def name(self) -> str:
        return f"heartbeat:{self.agent}"

    @property
    def kind(self) -> Literal["heartbeat"]:
        return "heartbeat"

    @property
    def every_s(self) -> float:
        return self.rhythm.every_s

    def first_slot(self, now: float) -> float:
        return now + self.every_s

    def look(self, row: Schedule, now: float, *, running: bool) -> Decision:
        return look(row, self.rhythm, now, running=running)

    async def fire(self, row: Schedule, tick: Tick, begun: Begun) -> Ended | None:
        probed = None
        if command := self.settings.probe:
            try:
                probed = await self.means.probe(command, self.workspace)
            except ProbeFailed as failed:
                return Ended(outcome="failed", reason=f"probe: {failed}", news=True)
            if probed.digest == row.seen:
                return Ended(outcome="skipped", reason=UNCHANGED)
        waiting, unreadable = await self._waiting()
        if probed:
            waiting.append(wording.Pending(f"What `{command}` says, exit status {probed.status}:", probed.said))
        ended = await self._wake(row, tick, wording.message(self.settings.prompt, waiting), begun)
        return ended and _with(ended, probed, unreadable)

    async def _waiting(self) -> tuple[list[wording.Pending], list[str]]:
        """What waits for the agent, and what cannot be said of it."""
        waiting: list[wording.Pending] = []
        unreadable: list[str] = []
        for source in self.means.sources:
            try:
                found = await source.pending(self.agent)
            except Unreadable as failed:
                unreadable.append(str(failed))
            else:
                waiting += [found] if found else []
        return waiting, unreadable

    async def _wake(self, row: Schedule, tick: Tick, text: str, begun: Begun) -> Ended | None:
        message = Incoming(content=text, when_busy="reject", kind="heartbeat")
        if self.settings.session == "same":
            return await _what_became_of(self._in_the_same(row, message, begun))
        slot = datetime.fromtimestamp(tick.slot, self.means.zone)
        try:
            session = await self.means.runtime.create_session(
                self.agent, BY, title=f"heartbeat of {self.agent}, {slot:%Y-%m-%d %H:%M}", key=key_of(tick)
            )
        except Problem as refused:
            return _refused(refused)
        ended = await _what_became_of(self._in_one_of_its_own(session, message, begun))
        if ended:
            await self._close_in_the_end(session)
        return ended

    async def _in_one_of_its_own(self, session: int, message: Incoming, begun: Begun) -> Ticket:
        """The session closes when its one turn has ended, whatever becomes of walrusd until then."""
        runtime = self.means.runtime
        try:
            await begun(Ran(session=session, turn=1), None)
            return await runtime.send(session, message)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True), suppress(Problem):
                await runtime.close_session(session, by=BY)

    async def _close_in_the_end(self, session: int) -> None:
        """A store that could not write the close may take its time; the tick's row waits for it anyway."""
        while True:
            try:
                await self.means.runtime.close_session(session, by=BY)
            except Problem as problem:
                if problem.kind not in _OF_THE_STORE:
                    return
                await trio.sleep(RETRY_S)
            else:
                return

    async def _in_the_same(self, row: Schedule, message: Incoming, begun: Begun) -> Ticket:
        runtime = self.means.runtime
        session = row.session if row.session and await self._is_open(row.session) else None
        if session is None:
            key = f"{self.name} after {row.session or 0}"  # made once, though a crash may come before it is noted
            session = await runtime.create_session(self.agent, BY, title=f"heartbeats of {self.agent}", key=key)
        turn = (await runtime.live(session)).session.outline.turns + 1
        await begun(Ran(session=session, turn=turn), session)
        return await runtime.send(session, message)

    async def _is_open(self, session: int) -> bool:
        try:
            return (await self.means.runtime.session(session)).state != "closed"
        except Problem as problem:
            if problem.kind == "session_not_found":
                return False
            raise


async def _what_became_of(sent: Awaitable[Ticket]) -> Ended | None:
    try:
        ticket = await sent
    except Problem as refused:
        return _refused(refused)
    try:
        return _ended(await ticket.outcome())
    except Problem as unknown:
        return None if unknown.kind == "shutting_down" else _failed(unknown.kind, unknown.message, _cut(ticket))


def heartbeats(config: schema.Config, means: Means) -> list[Heartbeat]:
    """Those that are not off."""
    return [
        Heartbeat(
            agent=agent.name,
            settings=agent.heartbeat,
            rhythm=Rhythm(
                every_s=agent.heartbeat.interval * 60,
                jitter_s=agent.heartbeat.jitter_s,
                quiet=_quiet(agent.heartbeat.quiet_hours),
                zone=means.zone,
            ),
            workspace=agent.workspace,
            means=means,
        )
        for agent in config.agents.values()
        if agent.heartbeat.interval > 0
    ]


def _quiet(hours: tuple[str, ...]) -> Quiet | None:
    if not hours:
        return None
    since, until = (int(hour[:2]) * 60 + int(hour[3:]) for hour in hours)
    return Quiet(since=since, until=until)


def _ended(result: TurnResult) -> Ended:
    ran = Ran(session=result.session, turn=result.turn, cost_usd=result.cost_usd)
    text = result.text[: wording.SHOWN]
    if result.stop_reason == "text_response":
        return Ended(outcome="ran", ran=ran, text=text, news=wording.is_news(result.text))
    if error := result.error:
        return _failed(error.kind, error.message, ran, text, at_once=error.kind in breaker.AT_ONCE)
    return _failed(result.stop_reason, _WITHOUT_ANSWER.get(result.stop_reason, "it has no answer"), ran, text)


def _refused(problem: Problem) -> Ended:
    if problem.kind == "shutting_down":
        return Ended(outcome="skipped", reason=STOPPING)
    if problem.kind in _NOT_NOW:
        return Ended(outcome="skipped", reason=problem.message)
    return _failed(problem.kind, problem.message)


def _failed(kind: str, message: str, ran: Ran | None = None, text: str = "", *, at_once: bool = False) -> Ended:
    """The reason begins with the word for it: an error's kind, or a stop reason."""
    return Ended(outcome="failed", reason=f"{kind}: {message}", ran=ran, text=text, news=True, at_once=at_once)


def _cut(ticket: Ticket) -> Ran | None:
    return Ran(session=ticket.session, turn=ticket.turn) if ticket.turn else None


def _with(ended: Ended, probed: Probed | None, unreadable: Sequence[str]) -> Ended:
    """With what the tick found on its way. What the probe says is old only once it was answered to."""
    reason = "; ".join(filter(None, (ended.reason, *unreadable)))
    return replace(ended, reason=reason, seen=probed.digest if probed and ended.outcome == "ran" else None)
