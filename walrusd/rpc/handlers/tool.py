"""The handler of tool.output: the whole output of a tool call of which the model saw only a part."""

import codecs
from functools import partial

from walrus_protocol.methods import OutputParams, OutputText
from walrus_protocol.problems import Problem
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime
from walrusd.store.tables.output import read_output

PAGE_BYTES = 160 * 1024
"""Bytes of a page: a control character takes six bytes in JSON, and results over 1 MiB are paged."""


def routes(runtime: Runtime) -> Routes:
    return {"tool.output": partial(output, runtime)}


async def output(runtime: Runtime, _: RequestContext, params: OutputParams) -> OutputText:
    """Returns a page that ends with a whole character; `offset` is in bytes, from the page before."""
    page = await runtime.log.read(read_output, params.session, params.ref, params.offset, PAGE_BYTES)
    if page is None:
        await runtime.session(params.session)
        raise Problem(
            "tool_not_found",
            f"session {params.session} has no output {params.ref[:40]!r}",
            "The ref is in the tool_result of an output that was too long to show; a shorter one has no ref. If the "
            "database exceeds storage.max_db_bytes, the oldest of these outputs are deleted.",
        )
    more = len(page) == PAGE_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(page, final=not more)
    incomplete = decoder.getstate()[0]
    return OutputText(text=text, next=params.offset + len(page) - len(incomplete) if more else None)
