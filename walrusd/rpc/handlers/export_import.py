"""session.export and session.import."""

import time

from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrusd.export_import.exporter import export_session as write_document
from walrusd.rpc.request_context import RequestContext


async def export(context: RequestContext, params: ExportParams) -> ExportResult:
    """A page of the log is read when the one before it is on its way: a client that does not read holds up itself."""
    runtime = context.services.runtime
    async with runtime.session_cache.deletion_guard.pin(params.session):  # it may be old, and is to be whole
        return await write_document(
            runtime.log,
            params.session,
            context.send_chunk,
            page_slot=lambda: context.outbox.paging_lock,
            clock=time.time,
            version=context.services.version,
        )


async def import_(context: RequestContext, params: ImportParams) -> ImportResult:
    """A part is only put with the others; the last one has the whole looked at, and made a session of."""
    with context.uploads.track_part(params.upload):
        async with context.serialized():
            received = await context.uploads.add(params.upload, params.data)
            if not params.last:
                return ImportResult(received=received)
            document = context.uploads.take(params.upload)
    with document:
        return await context.services.importer.import_document(document)
