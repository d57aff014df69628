"""Builds the result of rpc.discover: all methods, with JSON Schemas of the protocol's Structs."""

from functools import cache
from typing import get_args

import msgspec

from walrus_protocol import wire
from walrus_protocol.events import AnyEvent
from walrus_protocol.methods import METHODS, Discovery, MethodInfo


@cache
def build_discovery() -> Discovery:
    """Returns the result of rpc.discover. Its definitions also contain every event, by its Struct's name."""
    structs = [struct for row in METHODS.values() for struct in (row.params, row.result)]
    events = list(get_args(AnyEvent))
    schemas, definitions = msgspec.json.schema_components(
        [*structs, *events], schema_hook=_any_value_schema, ref_template="#/definitions/{name}"
    )
    pairs = zip(schemas[: len(structs) : 2], schemas[1 : len(structs) : 2], strict=True)
    methods = tuple(
        MethodInfo(name=name, params=params, result=result)
        for name, (params, result) in zip(METHODS, pairs, strict=True)
    )
    return Discovery(protocol=wire.PROTOCOL, methods=methods, definitions=definitions)


def _any_value_schema(annotation: type) -> dict[str, object]:
    """Returns a schema for `object`: msgspec has none, and accepts no empty schema."""
    if annotation is object:
        return {"description": "any JSON value"}
    raise NotImplementedError
