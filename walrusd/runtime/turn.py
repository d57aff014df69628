"""The world as the loop sees it, bound to one session: record, ask the model, call the tools, take steers."""

import contextlib

import trio
from msgspec.structs import replace

from walrus_protocol.content import ToolCall, TurnErrorKind
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    RunningOutput,
    TextDelta,
    ThinkingDelta,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.agent.prompt import system_text
from walrusd.dispatch.proposal import run_calls
from walrusd.ports import Model, ModelFailed, ModelRequest, Said, TextSaid
from walrusd.runtime.drafts import Drafts, Speech
from walrusd.runtime.hook import Hook
from walrusd.runtime.record import NOTHING, Beside, Overtaken
from walrusd.runtime.sessions import LiveSession
from walrusd.session.history import Extended
from walrusd.session.mend import Draft
from walrusd.session.outline import Outline
from walrusd.store.log import Output

NOT_BILLED: frozenset[TurnErrorKind] = frozenset(
    {
        "provider_auth",
        "provider_quota",
        "provider_rate_limited",
        "provider_overloaded",
        "context_length",
        "model_not_found",
        "no_provider",
    }
)
"""How a call fails before the provider has done any work. After any other failure its price is unknown."""


def uninterrupted(outline: Outline) -> bool:
    return outline.turn is not None and outline.turn.interrupt is None


class LiveTurn:
    """Fills agent.loop.TurnPorts for one turn of a live session."""

    def __init__(self, live: LiveSession, agent: Agent, model: Model, hook: Hook, drafts: Drafts) -> None:
        self._live = live
        self._number = live.session.outline.turns
        self._agent = agent
        self._model = model
        self._hook = hook
        self._drafts = drafts

    @property
    def outline(self) -> Outline:
        """The session's; once the turn has ended, without the next one, which is another's to run."""
        outline = self._live.session.outline
        return outline if outline.turns == self._number else replace(outline, turn=None)

    @property
    def done(self) -> Done | None:
        return self._live.done

    @property
    def draft(self) -> Draft | None:
        return self._live.draft

    @property
    def steered(self) -> bool:
        return any(queued.kind == "steer" for queued in self._live.inbox)

    async def record(self, *events: Durable) -> bool:
        """As the recorder does. A `done` that an interrupt overtakes is not recorded: the loop decides again."""
        decided = next((event.stop_reason for event in events if isinstance(event, Done)), "interrupted")
        beside = NOTHING if decided == "interrupted" else Beside(only_if=uninterrupted)
        try:
            await self._live.recorder.record(*events, beside=beside)
        except Overtaken:
            return False
        return True

    async def ask(self, round_: int) -> AssistantMessage:
        live, agent = self._live, self._agent
        history = await live.history()
        more = await self._hook.on_before_run(agent, history.messages)
        request = ModelRequest(
            model=agent.model,
            system=system_text(agent),
            history=Extended(history, more) if more else history,
            tools=agent.tools,
            thinking=agent.thinking,
        )
        turn = live.session.turn
        assert turn is not None, "a model is asked within a turn"
        speech = live.speech = Speech(turn.number, round_, agent.model)
        began = trio.current_time()
        try:
            reply = await self._model.reply(request, lambda said: self._said(speech, round_, said))
        except ModelFailed as failed:
            if failed.error.kind in NOT_BILLED and not speech.text_length and not speech.thinking_length:
                live.speech = None  # nothing was said, and nothing is owed for it
            raise
        return AssistantMessage(
            round=round_,
            content=reply.content,
            thinking=reply.thinking,
            calls=reply.calls,
            finish=reply.finish,
            model=reply.model,
            provider=reply.provider,
            usage=reply.usage,
            cost_usd=reply.cost_usd,
            duration_ms=round((trio.current_time() - began) * 1000),
            opaque=reply.opaque,
        )

    def _said(self, speech: Speech, round_: int, said: Said) -> None:
        live = self._live
        at = speech.add(said)
        self._drafts.unsaved(live.id, lambda: self._save(speech))
        kind = TextDelta if isinstance(said, TextSaid) else ThinkingDelta
        turn = live.session.turn
        live.say(
            kind(
                ts=live.shared.clock(),
                session=live.id,
                turn=turn.number if turn else None,
                text=said.text,
                round=round_,
                at=at,
            )
        )

    def _save(self, speech: Speech) -> None:
        """Write the draft, one at a time: a store that is slow is not given a second while it has the first."""
        live = self._live
        if live.speech is not speech:
            return  # its message is in the log
        if live.draft_under_way and not live.draft_under_way.is_settled:
            self._drafts.unsaved(live.id, lambda: self._save(speech))
            return
        live.draft_under_way = live.recorder.submit(beside=Beside(draft=speech.draft()))

    async def call(self, calls: tuple[ToolCall, ...]) -> None:
        agent, turn = self._agent, self._live.session.turn
        assert turn is not None, "calls are dispatched within a turn"
        await run_calls(
            calls,
            session=self._live.id,
            turn=turn.number,
            agent=agent.name,
            workspace=agent.workspace,
            schema=agent.schema,
            dispatch=self._hook.dispatch,
            record=self.record,
            keep=self._keep,
            say=self._hear,
            begun=turn.started,
        )

    async def _keep(self, body: bytes) -> str:
        """An output, durable before the result that names it. Raises StorageFailed."""
        output = Output.of(body)
        await self._live.recorder.record(beside=Beside(output=output))
        return output.ref

    def _hear(self, call: str, text: str) -> None:
        live = self._live
        live.say(RunningOutput(ts=live.shared.clock(), session=live.id, turn=self._number, call_id=call, text=text))

    async def take_steers(self) -> bool:
        live = self._live
        steers = [queued for queued in live.inbox if queued.kind == "steer"]
        with contextlib.suppress(Overtaken):  # by an interrupt: those that are left have missed the turn
            for queued in steers:
                await live.recorder.record(
                    UserMessage(content=queued.content, sender=queued.sender, key=queued.key, kind="steer"),
                    beside=replace(live.taking(queued), only_if=uninterrupted),
                )
        return bool(steers)
