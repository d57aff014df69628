"""session.export and session.import: a session as one document, which holds all that it needs on another home."""

from typing import Annotated

from msgspec import Meta, Struct

from walrus_protocol.param_types import Id, Params, ShortText

FORMAT_VERSION = 1
"""The version of the document, its member `walrus_export`. What is not of this version is not imported."""
MAX_CHUNK_CHARS = 256 * 1024
"""Characters of the document in one `chunk`."""


class ExportParams(Params, frozen=True, kw_only=True):
    session: Id


class ExportResult(Struct, frozen=True, kw_only=True):
    """How much the document is: `events` counts those that are inherited, too."""

    events: int
    bytes: int


class ImportParams(Params, frozen=True, kw_only=True):
    """The next part of a document. `upload` tells those apart that one connection sends side by side."""

    upload: ShortText = ""
    data: str
    last: bool = True


class ImportResult(Struct, frozen=True, kw_only=True):
    """`received`: bytes of the document that have come. The rest is said of the last part: the session is there."""

    received: int
    session: int | None = None
    agent: str | None = None
    warnings: tuple[str, ...] = ()


class SessionHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of an exported session: `turn_left_out` is the number of the turn that was under way, and is not in it."""

    id: Id
    agent: str
    title: str
    created_by: str
    created_at: float
    last_seq: Annotated[int, Meta(ge=1)]
    turn_left_out: int | None


class ExportedOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool's whole output, by the `ref` of its tool_result."""

    ref: str
    text: str


class ExportedKey(Struct, frozen=True, forbid_unknown_fields=True):
    """The key of a message, and the SHA-256 of what was sent with it, in hexadecimal digits."""

    key: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
