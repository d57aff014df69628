"""The world as the loop sees it, bound to one session: record, ask the model, call the tools, take steers."""

import contextlib

import trio
from msgspec.structs import replace

from walrus_protocol.content import ToolCall, TurnErrorKind
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    RunningOutput,
    TextDelta,
    ThinkingDelta,
    UserMessage,
)
from walrusd.agent.agent import Agent
from walrusd.agent.prompt import system_text
from walrusd.dispatch.proposal import run_calls
from walrusd.ports import Model, ModelFailed, ModelRequest, ReplyChunk, TextChunk
from walrusd.runtime.hook import Hook
from walrusd.runtime.recording.recorder import NO_EXTRAS, PreconditionFailed, TransactionExtras
from walrusd.runtime.sessions.live_session import LiveSession
from walrusd.runtime.turns.drafts import DraftSaver, ReplyBuffer
from walrusd.session.history import HistoryWithSuffix
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.contract import StoredOutput

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


def is_uninterrupted(session_state: SessionState) -> bool:
    return session_state.turn is not None and session_state.turn.interrupt is None


class SessionTurnContext:
    """Fills agent.loop.TurnPorts for one turn of a live session."""

    def __init__(self, live: LiveSession, agent: Agent, model: Model, hook: Hook, draft_saver: DraftSaver) -> None:
        self._live = live
        self._turn_number = live.session.state.turns
        self._agent = agent
        self._model = model
        self._hook = hook
        self._draft_saver = draft_saver

    @property
    def session_state(self) -> SessionState:
        """The session's; once the turn has ended, without the next one, which is another's to run."""
        outline = self._live.session.state
        return outline if outline.turns == self._turn_number else replace(outline, turn=None)

    @property
    def done(self) -> Done | None:
        return self._live.last_done

    @property
    def draft(self) -> Draft | None:
        return self._live.draft

    @property
    def has_steers(self) -> bool:
        return any(queued.kind == "steer" for queued in self._live.inbox)

    async def record(self, *events: AnySessionEvent) -> bool:
        """As the recorder does. A `done` that an interrupt overtakes is not recorded: the loop decides again."""
        decided = next((event.stop_reason for event in events if isinstance(event, Done)), "interrupted")
        beside = NO_EXTRAS if decided == "interrupted" else TransactionExtras(precondition=is_uninterrupted)
        try:
            await self._live.recorder.record(*events, extras=beside)
        except PreconditionFailed:
            return False
        return True

    async def ask_model(self, round_: int) -> AssistantMessage:
        live, agent = self._live, self._agent
        history = await live.history()
        more = await self._hook.on_before_run(agent, history.messages)
        request = ModelRequest(
            model=agent.model,
            system=system_text(agent),
            history=HistoryWithSuffix(history, more) if more else history,
            tools=agent.tools,
            thinking=agent.thinking,
        )
        turn = live.session.turn
        assert turn is not None, "a model is asked within a turn"
        speech = live.reply_buffer = ReplyBuffer(turn.number, round_, agent.model)
        began = trio.current_time()
        try:
            reply = await self._model.reply(request, lambda said: self._on_chunk(speech, round_, said))
        except ModelFailed as failed:
            if failed.error.kind in NOT_BILLED and not speech.text_length and not speech.thinking_length:
                live.reply_buffer = None  # nothing was said, and nothing is owed for it
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

    def _on_chunk(self, reply_buffer: ReplyBuffer, round_: int, chunk: ReplyChunk) -> None:
        live = self._live
        at = reply_buffer.add(chunk)
        self._draft_saver.schedule_save(live.id, lambda: self._save_draft(reply_buffer))
        kind = TextDelta if isinstance(chunk, TextChunk) else ThinkingDelta
        turn = live.session.turn
        live.publish_live(
            kind(
                ts=live.deps.clock(),
                session=live.id,
                turn=turn.number if turn else None,
                text=chunk.text,
                round=round_,
                at=at,
            )
        )

    def _save_draft(self, reply_buffer: ReplyBuffer) -> None:
        """Write the draft, one at a time: a store that is slow is not given a second while it has the first."""
        live = self._live
        if live.reply_buffer is not reply_buffer:
            return  # its message is in the log
        if live.pending_draft_write and not live.pending_draft_write.is_resolved:
            self._draft_saver.schedule_save(live.id, lambda: self._save_draft(reply_buffer))
            return
        live.pending_draft_write = live.recorder.submit(extras=TransactionExtras(draft=reply_buffer.to_draft()))

    async def call_tools(self, calls: tuple[ToolCall, ...]) -> None:
        agent, turn = self._agent, self._live.session.turn
        assert turn is not None, "calls are dispatched within a turn"
        await run_calls(
            calls,
            session=self._live.id,
            turn=turn.number,
            agent=agent.name,
            workspace=agent.workspace,
            schema=agent.find_schema,
            dispatch=self._hook.dispatch,
            record=self.record,
            store_output=self._store_output,
            on_output=self._on_tool_output,
            unfinished_call_ids=turn.started,
        )

    async def _store_output(self, body: bytes) -> str:
        """An output, durable before the result that names it. Raises StorageFailed."""
        output = StoredOutput.from_body(body)
        await self._live.recorder.record(extras=TransactionExtras(output=output))
        return output.ref

    def _on_tool_output(self, call_id: str, text: str) -> None:
        live = self._live
        live.publish_live(
            RunningOutput(ts=live.deps.clock(), session=live.id, turn=self._turn_number, call_id=call_id, text=text)
        )

    async def take_steers(self) -> bool:
        live = self._live
        steers = [queued for queued in live.inbox if queued.kind == "steer"]
        with contextlib.suppress(PreconditionFailed):  # by an interrupt: those that are left have missed the turn
            for queued in steers:
                await live.recorder.record(
                    UserMessage(content=queued.content, sender=queued.sender, key=queued.key, kind="steer"),
                    extras=replace(live.extras_for_dequeue(queued), precondition=is_uninterrupted),
                )
        return bool(steers)
