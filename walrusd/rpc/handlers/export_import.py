"""Handlers of session.export and session.import."""

import time
from functools import partial

from walrus_protocol.methods.export_import import ExportParams, ExportResult, ImportParams, ImportResult
from walrusd import __version__
from walrusd.export_import.exporter import Exporter
from walrusd.export_import.importer import Importer
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes
from walrusd.runtime.runtime import Runtime


def routes(runtime: Runtime, importer: Importer) -> Routes:
    return {"session.export": partial(export, runtime), "session.import": partial(import_, importer)}


async def export(runtime: Runtime, context: RequestContext, params: ExportParams) -> ExportResult:
    """Streams the document of a session.

    A page of the log is read only when the previous one is queued, so a slow client delays only itself.
    """
    async with runtime.session_cache.pin(params.session):  # retention must not delete it meanwhile
        exporter = Exporter(runtime.log, params.session, context.send_chunk, context.outbox.paging_lock)
        return await exporter.write_document(time.time(), __version__)


async def import_(importer: Importer, context: RequestContext, params: ImportParams) -> ImportResult:
    """Stores a part of the document; the last part validates the whole and imports it as a session."""
    with context.uploads.track_part(params.upload):
        async with context.serialized():
            received = await context.uploads.add(params.upload, params.data)
            if not params.last:
                return ImportResult(received=received)
            document = context.uploads.take(params.upload)
    with document:
        return await importer.import_document(document)
