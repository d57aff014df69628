"""Handlers of session.export and session.import."""

import time

from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrusd.export_import.exporter import export_session as write_document
from walrusd.rpc.request_context import RequestContext


async def export(context: RequestContext, params: ExportParams) -> ExportResult:
    """Streams the document of a session.

    A page of the log is read only when the previous one is queued, so a slow client delays only itself.
    """
    runtime = context.services.runtime
    async with runtime.session_cache.deletion_guard.pin(params.session):  # retention must not delete it meanwhile
        return await write_document(
            runtime.log,
            params.session,
            context.send_chunk,
            page_slot=lambda: context.outbox.paging_lock,
            clock=time.time,
            version=context.services.version,
        )


async def import_(context: RequestContext, params: ImportParams) -> ImportResult:
    """Stores a part of the document; the last part validates the whole and imports it as a session."""
    with context.uploads.track_part(params.upload):
        async with context.serialized():
            received = await context.uploads.add(params.upload, params.data)
            if not params.last:
                return ImportResult(received=received)
            document = context.uploads.take(params.upload)
    with document:
        return await context.services.importer.import_document(document)
