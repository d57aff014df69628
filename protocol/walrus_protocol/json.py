"""The one place where JSON bytes are decoded. Whatever a library raises, callers meet our own BadJson."""

from typing import Any, Generic, Literal, TypeVar, cast, overload

import msgspec

Reason = Literal["utf8", "syntax", "schema", "depth"]
"""Not UTF-8 · not JSON · JSON of another shape than the type wants · nested deeper than the decoder goes."""

T = TypeVar("T")


class BadJson(Exception):
    """Bytes that cannot be decoded as the wanted type: the reason, and the library's sentence about it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Decoder(Generic[T]):
    """Decodes JSON as one type; made once for a type that is decoded often."""

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
    """Returns one value of a type that is decoded seldom. Raises BadJson and nothing else."""
    return Decoder(kind).decode(data)


def _bad_json(data: bytes | str | msgspec.Raw, error: Exception) -> BadJson:
    """Names the reason by the bytes and by classes that all versions share.

    msgspec raises UnicodeDecodeError for a string that is not UTF-8 up to 0.22, its own DecodeError from 0.23 on, and
    nothing where it skips the string. All of these are ValueErrors.
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
