"""tool.output: what a tool said, whole, where the model was shown only a part."""

import codecs

from walrus_protocol.methods import OutputParams, OutputText
from walrus_protocol.problems import Problem
from walrusd.rpc.request_context import RequestContext

PAGE_BYTES = 160 * 1024
"""Bytes: of control characters each takes six in JSON, and results over 1 MiB are paged."""


async def output(context: RequestContext, params: OutputParams) -> OutputText:
    """A page, which ends with a whole character. Offsets are those in bytes that `next` has given."""
    runtime = context.services.runtime
    page = await runtime.log.output(params.session, params.ref, params.offset, PAGE_BYTES)
    if page is None:
        await runtime.session(params.session)
        raise Problem(
            "tool_not_found",
            f"session {params.session} has no output {params.ref[:40]!r}",
            "A ref stands in the tool_result of an output that was too long to be shown; others are there whole. Where "
            "the database outgrows storage.max_db_bytes, the oldest of these outputs are thrown away.",
        )
    more = len(page) == PAGE_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(page, final=not more)
    begun, _ = decoder.getstate()
    return OutputText(text=text, next=params.offset + len(page) - len(begun) if more else None)
