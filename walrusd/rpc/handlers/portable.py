"""session.export and session.import."""

import time

from walrus_protocol.portable import Exported, ExportParams, Imported, ImportParams
from walrusd.rpc.call import Call
from walrusd.runtime.portable.exporting import export as write_document


async def export(call: Call, params: ExportParams) -> Exported:
    """A page of the log is read when the one before it is on its way: a client that does not read holds up itself."""
    runtime = call.house.runtime
    async with runtime.sessions_in_memory.departures.needed(params.session):  # it may be old, and is to be whole
        return await write_document(
            runtime.log,
            params.session,
            call.chunk,
            page=lambda: call.outbox.paging,
            clock=time.time,
            version=call.house.version,
        )


async def import_(call: Call, params: ImportParams) -> Imported:
    """A part is only put with the others; the last one has the whole looked at, and made a session of."""
    with call.uploads.part(params.upload):
        async with call.in_order():
            received = await call.uploads.add(params.upload, params.data)
            if not params.last:
                return Imported(received=received)
            document = call.uploads.take(params.upload)
    with document:
        return await call.house.runtime.imports.take(document)
