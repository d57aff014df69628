"""Decodes JSON for the whole code base; every failure is a BadJson, whatever the library raises."""

from typing import Any, Generic, Literal, TypeVar, cast, overload

import msgspec

Reason = Literal["utf8", "syntax", "schema", "depth"]
"""The reason of a BadJson.

utf8: not UTF-8. syntax: not JSON. schema: JSON that does not fit the type. depth: nested too deeply to decode.
"""

T = TypeVar("T")


class BadJson(Exception):
    """The bytes cannot be decoded as the requested type; `detail` is the library's message."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Decoder(Generic[T]):
    """A reusable decoder of one type, for types that are decoded often."""

    @overload
    def __init__(self, kind: type[T]) -> None: ...
    @overload
    def __init__(self, kind: object) -> None: ...
    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def decode(self, data: bytes | str | msgspec.Raw) -> T:
        """Returns the value. Raises BadJson and nothing else."""
        try:
            return cast("T", self._decode(data))
        except (ValueError, RecursionError) as error:
            raise _bad_json(data, error) from error


def decode(data: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Returns one value of a type that is rarely decoded. Raises BadJson and nothing else."""
    return Decoder(kind).decode(data)


def convert(value: object, kind: type[T]) -> T:
    """Returns a decoded value as another type. Raises BadJson if it has another shape."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadJson("schema", str(error)) from error


def _bad_json(data: bytes | str | msgspec.Raw, error: Exception) -> BadJson:
    """Determines the reason from the bytes and from exception classes of all versions of msgspec.

    For a string that is not UTF-8, msgspec raises UnicodeDecodeError up to 0.22 and its own DecodeError from 0.23 on.
    It raises nothing for such a string in a skipped value. All of these are ValueErrors.
    """
    if not _is_utf8(data):
        return BadJson("utf8", "a string in it is not UTF-8")
    if isinstance(error, RecursionError):
        return BadJson("depth", "it is nested too deeply")
    return BadJson("schema" if isinstance(error, msgspec.ValidationError) else "syntax", str(error))


def _is_utf8(data: bytes | str | msgspec.Raw) -> bool:
    try:
        if isinstance(data, str):
            data.encode()
        else:
            bytes(data).decode()
    except UnicodeError:
        return False
    return True
