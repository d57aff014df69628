"""The params and result of tool.output."""

from msgspec import Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import Id, Params, Seq, ShortText


class OutputParams(Params, frozen=True, kw_only=True):
    session: Id
    ref: ShortText
    offset: Seq = 0


class OutputText(Struct, frozen=True, kw_only=True):
    """A page of a tool's whole output; `next` is the offset of the next page, null at the end."""

    text: str
    next: int | None = None


ROWS: dict[str, Method] = {
    "tool.output": Method(OutputParams, OutputText),
}
