"""The former name of methods.export_import: an alias for one release, then it is removed (see CHANGELOG.md)."""

from walrus_protocol.methods.export_import import *

UsedKey = ExportedKey
KeptOutput = ExportedOutput
Exported = ExportResult
Imported = ImportResult
Described = SessionHeader
