"""A store that passes three boundaries with every write, each named after what is written."""

from collections.abc import Callable, Iterator

import trio

from tests.crash.boundaries import Boundaries
from tests.crash.failing_disk import FailingDisk
from walrus_protocol.content import plain_text
from walrus_protocol.events import (
    AssistantMessage,
    Done,
    Durable,
    ToolResult,
    ToolStarted,
    TurnResumed,
    UserMessage,
    decode_row,
)
from walrusd.session.mend import Draft
from walrusd.store.log import Write
from walrusd.store.sqlite import SqliteLog


class MortalLog(SqliteLog):
    """`give` it its boundaries before the first write."""

    def give(self, boundaries: Boundaries, disk: FailingDisk, drafted: Callable[[int, Draft], None]) -> None:
        """`drafted` is told of every draft that is durable, and of which session it is."""
        self._boundaries = boundaries
        self._disk = disk
        self._drafted = drafted
        self._draft_settled = trio.Event()
        self.refusal = trio.Event()
        """The next time that a write is refused."""

    async def draft_settled(self) -> None:
        """Wait for the next draft to be durable, or refused."""
        self._draft_settled = trio.Event()
        await self._draft_settled.wait()

    def submit(self, write: Write) -> None:
        what = " + ".join(_named(write))
        committed, failed = write.committed, write.failed

        def durable(offset: int) -> None:
            self._boundaries.passing(what, "durable")
            committed(offset)
            if isinstance(write.draft, Draft):
                self._drafted(write.session, write.draft)
            self._boundaries.passing(what, "applied")
            self._settle(write)

        def refused(error: Exception) -> None:
            failed(error)
            self._settle(write)
            self.refusal.set()
            self.refusal = trio.Event()

        write.committed, write.failed = durable, refused
        self._boundaries.passing(what, "before")
        self._disk.begin()
        super().submit(write)

    def _settle(self, write: Write) -> None:
        if isinstance(write.draft, Draft):
            self._draft_settled.set()


def _named(write: Write) -> Iterator[str]:
    yield from (_told(decode_row(body)) for body in write.bodies)
    for queued in write.enqueue:
        yield f"inbox: {queued.kind} “{plain_text(queued.content)}”"
    if isinstance(write.draft, Draft):
        yield f"draft “{write.draft.thinking}{write.draft.text}”"
    if write.output:
        yield "a large output"


def _told(event: Durable) -> str:
    tag = str(event.__struct_config__.tag)
    match event:
        case UserMessage(kind="resume"):
            return f"{tag} (resume)"
        case UserMessage(kind=kind, content=content):
            return f"{tag} ({kind}) “{plain_text(content)}”"
        case AssistantMessage(finish=finish):
            return f"{tag} ({finish})"
        case ToolStarted(name=name, call_id=call):
            return f"{tag} {name} {_place(call)}"
        case ToolResult(name=name, call_id=call, outcome=outcome):
            return f"{tag} {name} {_place(call)} ({outcome})"
        case Done(stop_reason=reason, error=error):
            return f"{tag} ({error.kind if error else reason})"
        case TurnResumed(attempt=attempt):
            return f"{tag} ({attempt})"
        case _:
            return tag


def _place(call: str) -> int:
    """Which of its round it is, from 1."""
    return int(call.rpartition("_")[2]) + 1
