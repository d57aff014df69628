"""The types that messages consist of, shared by the log, the wire and the providers."""

from msgspec import Struct

# These words are names of this module, too: programs import them from here.
from walrus_protocol.vocabulary import *


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImagePart(Struct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image: either `data` (base64, with its `media_type`) or a `url`."""

    media_type: str = "image/png"
    data: str = ""
    url: str = ""


class FilePart(Struct, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """A complete document: `data` is base64."""

    name: str
    media_type: str = "application/octet-stream"
    data: str = ""


Part = TextPart | ImagePart | FilePart
Content = str | tuple[Part, ...]


class ToolCall(Struct, frozen=True):
    """A tool call that a model requested. `arguments` is the original text if it is not a JSON object."""

    id: str
    name: str
    arguments: dict[str, object] | str


class ToolSchema(Struct, frozen=True, kw_only=True):
    """The description of a tool for models and for the checks before a call."""

    name: str
    description: str
    parameters: dict[str, object]
    """A JSON Schema of type object."""
    read_only: bool = False
    idempotent: bool = False
    destructive: bool = False
    timeout_s: float = 60.0
    max_output_bytes: int = 64 * 1024


class Usage(Struct, frozen=True):
    """Token counts. The whole prompt is input + cache_read + cache_write; `output` includes `reasoning`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
        )


class TurnError(Struct, frozen=True):
    """Why a turn ended in error: a kind for programs, a message and a hint for people."""

    kind: TurnErrorKind
    message: str
    hint: str = ""


class User(Struct, frozen=True, tag_field="role", tag="user"):
    content: Content


class Assistant(Struct, frozen=True, kw_only=True, tag_field="role", tag="assistant"):
    content: Content = ""
    thinking: str = ""
    calls: tuple[ToolCall, ...] = ()
    opaque: dict[str, object] | None = None


class ToolOutput(Struct, frozen=True, kw_only=True, tag_field="role", tag="tool"):
    call_id: str
    name: str
    output: str
    is_error: bool = False


Message = User | Assistant | ToolOutput


def plain_text(content: Content) -> str:
    """Returns the text of a content; other parts are left out."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


# Former names: aliases for one release, then they are removed (see CHANGELOG.md).
TickedBy = TickTrigger
ExpiredBy = ExpiryReason
