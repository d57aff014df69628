"""The params, results and document format of session.export and session.import.

The document of a session contains everything that the session needs in another home.
"""

from typing import Annotated

from msgspec import Meta, Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import Id, Params, ShortText

FORMAT_VERSION = 1
"""The version of the document, its member `walrus_export`. Other versions cannot be imported."""
MAX_CHUNK_CHARS = 256 * 1024
"""Maximum characters of the document in one `chunk`."""


class ExportParams(Params, frozen=True, kw_only=True):
    session: Id


class ExportResult(Struct, frozen=True, kw_only=True):
    """The size of the document; `events` includes the inherited ones."""

    events: int
    bytes: int


class ImportParams(Params, frozen=True, kw_only=True):
    """The next part of a document.

    `upload` names the document if a connection sends several at the same time.
    """

    upload: ShortText = ""
    data: str
    last: bool = True


class ImportResult(Struct, frozen=True, kw_only=True):
    """The bytes of the document `received` so far; the other fields are set after the last part."""

    received: int
    session: int | None = None
    agent: str | None = None
    warnings: tuple[str, ...] = ()


class SessionHeader(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The session of a document.

    `turn_left_out` is the number of the running turn, which is not in the document.
    """

    id: Id
    agent: str
    title: str
    created_by: str
    created_at: float
    last_seq: Annotated[int, Meta(ge=1)]
    turn_left_out: int | None


class ExportedOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool's whole output; `ref` is that of its tool_result."""

    ref: str
    text: str


class ExportedKey(Struct, frozen=True, forbid_unknown_fields=True):
    """An idempotency key, and the SHA-256 of the content sent with it, in hexadecimal digits."""

    key: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


ROWS: dict[str, Method] = {
    "session.export": Method(ExportParams, ExportResult, sends="chunks"),
    "session.import": Method(ImportParams, ImportResult, order_by="upload"),
}
