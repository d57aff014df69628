"""Connects the agent loop to a live session: records, asks the model, calls tools, takes steers."""

import contextlib
from collections.abc import Callable
from functools import partial

import trio
from msgspec.structs import replace

from walrus_protocol.content import ToolCall, TurnError, TurnErrorKind
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
from walrusd.session.conversation import HistoryWithSuffix
from walrusd.session.recovery import Draft
from walrusd.session.session_state import SessionState
from walrusd.store.tables.draft import SaveDraft
from walrusd.store.tables.output import AddOutput, StoredOutput

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
"""Errors that a provider raises before it does any work.

After any other error the price of the call is unknown.
"""


def is_uninterrupted(session_state: SessionState) -> bool:
    """Returns whether a turn is open that no recorded interrupt is to end."""
    return session_state.turn is not None and session_state.turn.interrupt is None


def redact_error(done: Done, redact: Callable[[str], str]) -> Done:
    """Returns the event with its error redacted; no `done` is recorded without this."""
    if done.error is None:
        return done
    return replace(done, error=TurnError(done.error.kind, redact(done.error.message), redact(done.error.hint)))


class SessionTurnContext:
    """The agent.loop.TurnContext of one turn of a live session."""

    def __init__(
        self,
        live: LiveSession,
        agent: Agent,
        model: Model,
        hook: Hook,
        draft_saver: DraftSaver,
        redact: Callable[[str], str],
    ) -> None:
        self._live = live
        self._turn_number = live.session.state.turns
        self._agent = agent
        self._model = model
        self._hook = hook
        self._draft_saver = draft_saver
        self._redact = redact

    @property
    def session_state(self) -> SessionState:
        """The state of the session, without a later turn: that one has a context of its own."""
        state = self._live.session.state
        return state if state.turns == self._turn_number else replace(state, turn=None)

    @property
    def done(self) -> Done | None:
        return self._live.last_done

    @property
    def draft(self) -> Draft | None:
        return self._live.draft

    @property
    def has_steers(self) -> bool:
        return any(entry.kind == "steer" for entry in self._live.inbox.entries)

    async def record(self, *events: AnySessionEvent) -> bool:
        """Records the events; returns False, with nothing recorded, if an interrupt came before their `done`."""
        extras, redacted = NO_EXTRAS, list[AnySessionEvent]()
        for event in events:
            if not isinstance(event, Done):
                redacted.append(event)
                continue
            redacted.append(redact_error(event, self._redact))
            if event.stop_reason != "interrupted":
                extras = TransactionExtras(precondition=is_uninterrupted)
        try:
            await self._live.recorder.record(*redacted, extras=extras)
        except PreconditionFailed:
            return False
        return True

    async def ask_model(self, round_: int) -> AssistantMessage:
        live, agent = self._live, self._agent
        history = await live.history()
        suffix = await self._hook.on_before_run(agent, history.messages)
        request = ModelRequest(
            model=agent.model,
            system=system_text(agent),
            history=HistoryWithSuffix(history, suffix) if suffix else history,
            tools=agent.tools,
            thinking=agent.thinking,
            purpose="turn",
        )
        buffer = live.reply_buffer = ReplyBuffer(self._turn_number, round_, agent.model)
        started = trio.current_time()
        try:
            reply = await self._model.reply(request, partial(self._on_chunk, buffer))
        except ModelFailed as failed:
            if failed.error.kind in NOT_BILLED and not buffer.text_length and not buffer.thinking_length:
                live.reply_buffer = None  # no text came, and the call costs nothing
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
            duration_ms=round((trio.current_time() - started) * 1000),
            opaque=reply.opaque,
        )

    def _on_chunk(self, reply_buffer: ReplyBuffer, chunk: ReplyChunk) -> None:
        live = self._live
        offset = reply_buffer.add(chunk)
        if not reply_buffer.save_scheduled:
            reply_buffer.save_scheduled = True
            self._draft_saver.schedule_save(live.id, partial(self._save_draft, reply_buffer))
        kind = TextDelta if isinstance(chunk, TextChunk) else ThinkingDelta
        live.publish_live(
            kind(
                ts=live.deps.clock(),
                session=live.id,
                turn=reply_buffer.turn,
                text=chunk.text,
                round=reply_buffer.round,
                at=offset,
            )
        )

    def _save_draft(self, reply_buffer: ReplyBuffer) -> None:
        """Writes the draft, or postpones it while the write of an earlier draft is pending in a slow store."""
        live = self._live
        if live.reply_buffer is not reply_buffer:
            return  # its message is in the log, or it was dropped
        if live.pending_draft_write and not live.pending_draft_write.is_resolved:
            self._draft_saver.schedule_save(live.id, partial(self._save_draft, reply_buffer))
            return
        reply_buffer.save_scheduled = False
        live.pending_draft_write = live.recorder.submit(
            extras=TransactionExtras(mutations=(SaveDraft(reply_buffer.to_draft()),))
        )

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
        """Stores a tool output, durable before the result that refers to it, and returns its ref.

        Raises StorageFailed.
        """
        output = StoredOutput.from_body(body)
        await self._live.recorder.record(extras=TransactionExtras(mutations=(AddOutput(output),)))
        return output.ref

    def _on_tool_output(self, call_id: str, text: str) -> None:
        live = self._live
        live.publish_live(
            RunningOutput(ts=live.deps.clock(), session=live.id, turn=self._turn_number, call_id=call_id, text=text)
        )

    async def take_steers(self) -> bool:
        live = self._live
        steers = [entry for entry in live.inbox.entries if entry.kind == "steer"]
        with contextlib.suppress(PreconditionFailed):  # interrupted: the remaining steers are too late for this turn
            for entry in steers:
                await live.recorder.record(
                    UserMessage(content=entry.content, sender=entry.sender, key=entry.key, kind="steer"),
                    extras=replace(live.extras_for_dequeue(entry), precondition=is_uninterrupted),
                )
        return bool(steers)
