"""A SQLite store with three kill points for each write; their description names what is written."""

from collections.abc import Callable, Iterator

import trio

from tests.crash.failing_disk import FailingDisk
from tests.crash.kill_points import KillPoints
from tests.fakes.stepped_log import Step, SteppedSqliteLog
from walrus_protocol.content import plain_text
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    Done,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
    decode_row,
)
from walrusd.session.recovery import Draft
from walrusd.store.contract import Write
from walrusd.store.tables.draft import SaveDraft
from walrusd.store.tables.inbox import Enqueue
from walrusd.store.tables.output import AddOutput


class KillableLog(SteppedSqliteLog):
    """A store that kills the process at kill points; call `attach` before the first write."""

    def attach(
        self, kill_points: KillPoints, disk: FailingDisk, on_draft_durable: Callable[[int, Draft], None]
    ) -> None:
        """Sets the kill points and the disk.

        `on_draft_durable` gets the session and each draft that became durable.
        """
        self._kill_points = kill_points
        self._disk = disk
        self._on_draft_durable = on_draft_durable
        self.on_step = self._reach
        self._draft_done = trio.Event()
        self.write_refused = trio.Event()
        """Set when the next write is refused, and then replaced."""

    async def wait_draft_settled(self) -> None:
        """Waits until the next draft is durable or refused."""
        self._draft_done = trio.Event()
        await self._draft_done.wait()

    def submit(self, write: Write) -> None:
        failed = write.failed

        def refused(error: Exception) -> None:
            failed(error)
            self._settle_draft(write)
            self.write_refused.set()
            self.write_refused = trio.Event()

        write.failed = refused
        super().submit(write)

    def _reach(self, _number: int, step: Step, write: Write) -> None:
        if step == "applied" and (draft := _saved_draft(write)):
            self._on_draft_durable(write.session, draft)
        self._kill_points.reach(" + ".join(_describe_write(write)), step)
        if step == "before":
            self._disk.begin_write()
        if step == "applied":
            self._settle_draft(write)

    def _settle_draft(self, write: Write) -> None:
        if _saved_draft(write):
            self._draft_done.set()


def _saved_draft(write: Write) -> Draft | None:
    return next((mutation.draft for mutation in write.mutations if isinstance(mutation, SaveDraft)), None)


def _describe_write(write: Write) -> Iterator[str]:
    yield from (_describe_event(decode_row(body)) for body in write.bodies)
    for mutation in write.mutations:
        match mutation:
            case Enqueue(queued):
                yield f"inbox: {queued.kind} “{plain_text(queued.content)}”"
            case SaveDraft(draft):
                yield f"draft “{draft.thinking}{draft.text}”"
            case AddOutput():
                yield "a large tool output"
            case _:
                pass


def _describe_event(event: AnySessionEvent) -> str:
    tag = str(event.__struct_config__.tag)
    match event:
        case UserMessage(kind="resume"):
            return f"{tag} (resume)"
        case UserMessage(kind=kind, content=content):
            return f"{tag} ({kind}) “{plain_text(content)}”"
        case AssistantMessage(finish=finish):
            return f"{tag} ({finish})"
        case ToolStarted(name=name, call_id=call_id):
            return f"{tag} {name} {_call_number(call_id)}"
        case ToolResult(name=name, call_id=call_id, outcome=outcome):
            return f"{tag} {name} {_call_number(call_id)} ({outcome})"
        case Done(stop_reason=reason, error=error):
            return f"{tag} ({error.kind if error else reason})"
        case TurnResumed(attempt=attempt):
            return f"{tag} ({attempt})"
        case _:
            return tag


def _call_number(call_id: str) -> int:
    """Returns the position of the call in its round, from 1."""
    return int(call_id.rpartition("_")[2]) + 1
