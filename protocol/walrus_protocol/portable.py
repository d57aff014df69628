"""The former name of methods.export_import: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.export_import import ExportedKey as UsedKey
from walrus_protocol.methods.export_import import ExportedOutput as KeptOutput
from walrus_protocol.methods.export_import import ExportParams as ExportParams
from walrus_protocol.methods.export_import import ExportResult as Exported
from walrus_protocol.methods.export_import import ImportParams as ImportParams
from walrus_protocol.methods.export_import import ImportResult as Imported
from walrus_protocol.methods.export_import import SessionHeader as Described

__all__ = ["Described", "ExportParams", "Exported", "ImportParams", "Imported", "KeptOutput", "UsedKey"]
