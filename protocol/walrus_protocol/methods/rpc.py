"""The params and results of rpc.*: the description of all methods."""

from msgspec import Struct

from walrus_protocol.methods.method import Method
from walrus_protocol.param_types import NoParams


class MethodInfo(Struct, frozen=True, kw_only=True):
    name: str
    params: dict[str, object]
    result: dict[str, object]


class Discovery(Struct, frozen=True, kw_only=True):
    protocol: int
    methods: tuple[MethodInfo, ...]
    definitions: dict[str, object]


ROWS: dict[str, Method] = {
    "rpc.discover": Method(NoParams, Discovery),
}
