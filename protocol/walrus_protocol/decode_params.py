"""Decodes the params of a request to the method's Struct, or raises a Problem with an explanation."""

import binascii
import difflib
import re
from collections.abc import Iterable
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from walrus_protocol import wire
from walrus_protocol.content import FilePart, ImagePart, Part, TextPart
from walrus_protocol.json import BadJson, Decoder
from walrus_protocol.methods import METHODS
from walrus_protocol.param_types import Params
from walrus_protocol.problems import Problem

_decoders: dict[str, Decoder[Params]] = {name: Decoder(row.params) for name, row in METHODS.items()}
_encode = msgspec.json.Encoder().encode
_MAX_NAME_CHARS = 80
"""Maximum characters of a client's name in an error: enough to find it, too few to flood a log."""
FRAMING_HINT = "a frame is a 4-byte big-endian length and that many bytes of JSON; see protocol/README.md"
_PARTS_HINT = (
    'a part is {"type":"text","text"}, {"type":"image","media_type","data" or "url"} or {"type":"file","name","data"}'
)
_PART_FIELDS = tuple(dict.fromkeys(["type", *(name for part in get_args(Part) for name in part.__struct_fields__)]))
_JSON_TYPE_NAMES = {"int": "integer", "float": "number", "str": "string", "bool": "true/false", " | ": " or "}


class _StrictTextPart(TextPart, frozen=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("its text is empty")


class _StrictImagePart(ImagePart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.url):
            raise ValueError("an image needs either data or a url")
        _check_base64(self.data)


class _StrictFilePart(FilePart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("a file needs data")
        _check_base64(self.data)


class _StrictContent(msgspec.Struct):
    """Content parts with strict checks, for requests.

    Logs are read leniently, with the types of content.py.
    """

    content: tuple[_StrictTextPart | _StrictImagePart | _StrictFilePart, ...]


_content_decoder = Decoder(_StrictContent)


def decode_params(method: str, raw: msgspec.Raw | bytes) -> Params:
    """Returns the params of `method`.

    Raises Problem, of kind `parse_error` only if the bytes are not JSON.
    """
    decoder = _decoders.get(method)
    if decoder is None:
        raise _unknown_method_problem(method)
    try:
        params = decoder.decode(raw)
        if isinstance(getattr(params, "content", None), tuple):
            _content_decoder.decode(raw)
    except BadJson as error:
        raise _params_problem(method, error) from error
    if len(bytes(raw)) > wire.MAX_MESSAGE:
        _check_content_size(params)
    return params


def _params_problem(method: str, error: BadJson) -> Problem:
    match error.reason:
        case "schema":
            return _validation_problem(method, error.detail)
        case "depth":
            return Problem("invalid_params", "params are nested too deeply", "nest them less")
        case "utf8" | "syntax":
            return json_problem(error)


def json_problem(error: BadJson) -> Problem:
    """Returns the problem of a frame whose bytes are not JSON."""
    hint = "send JSON in UTF-8" if error.reason == "utf8" else FRAMING_HINT
    return Problem("parse_error", f"the frame is not valid JSON: {error}", hint)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Returns the one of `names` that is most similar to `name`, or "" if none is similar."""
    return next(iter(difflib.get_close_matches(name[:_MAX_NAME_CHARS], list(names), n=1)), "")


def quote_name(name: str) -> str:
    """Returns a client's name for an error text, quoted and shortened."""
    return repr(name if len(name) <= _MAX_NAME_CHARS else name[:_MAX_NAME_CHARS] + "…")


def _unknown_method_problem(method: str) -> Problem:
    if method == "rpc.cancel":
        return Problem("method_not_found", "rpc.cancel is never answered", "send it without an id")
    nearest = nearest_name(method, METHODS)
    hint = f"did you mean {nearest}?" if nearest else "rpc.discover lists the methods"
    return Problem("method_not_found", f"there is no method {quote_name(method)}", hint)


def _validation_problem(method: str, text: str) -> Problem:
    """Rewrites msgspec's message: path first, JSON type names.

    An example of a message is `Expected `int`, got `str` - at `$.session``.
    """
    params = METHODS[method].params
    message, _, location = text.rpartition(" - at `$") if " - at `$" in text else (text, "", "")
    path = location.rstrip("`").lstrip(".")
    known = ", ".join(params.__struct_fields__) or "none"
    if message.startswith("Object contains unknown field "):
        return _unknown_name_problem(params, path, message.removeprefix("Object contains unknown field ").strip("`"))
    message = _use_json_type_names(message)
    if not path:
        subject = message.replace("field", "param", 1) if message.startswith("missing") else f"params: {message}"
        return Problem("invalid_params", subject, f"params: {known}")
    value = re.match(r"unknown value '(.*)'", message)
    return Problem("invalid_params", f"{path}: {message}"[:1000], _hint(method, path, value[1] if value else ""))


def _unknown_name_problem(params: type[Params], path: str, name: str) -> Problem:
    """Returns the problem of an unknown param, or of an unknown field of the content part at `path`."""
    if not path:
        known, message, list_label = params.__struct_fields__, "unknown param", "params: "
    else:
        known, message, list_label = _PART_FIELDS, f"{path}: unknown field", "fields of parts: "
    nearest = nearest_name(name, known)
    hint = f"did you mean {nearest}?" if nearest else list_label + (", ".join(known) or "none")
    return Problem("invalid_params", f"{message} {quote_name(name)}", hint)


def _use_json_type_names(sentence: str) -> str:
    """Replaces Python's type names in msgspec's message by JSON's, because readers may not know Python."""
    if sentence.startswith("Expected "):
        sentence = re.sub(
            r"\b(?:int|float|str|bool)\b| \| ", lambda found: _JSON_TYPE_NAMES[found[0]], sentence.replace("`", "")
        )
        return sentence.replace("Expected", "expected", 1)
    sentence = sentence.replace("Object missing required field", "missing field").replace("`", "")
    sentence = re.sub(r"^Invalid (?:enum )?value ", "unknown value ", sentence)
    return sentence[:1].lower() + sentence[1:]


def _hint(method: str, path: str, value: str) -> str:
    """Returns the hint for a wrong param at `path`; `value` is an unknown value, or empty."""
    choices = _literal_choices(METHODS[method].params, path)
    if choices:
        nearest = nearest_name(value, choices)
        return (f"did you mean {nearest}? It must be " if nearest else "") + f"one of {', '.join(choices)}"
    if path.startswith("content["):
        return _PARTS_HINT
    if path == "content":
        return "content must be a string or an array of parts, and not empty"
    return f"rpc.discover and protocol/README.md say what {method} takes"


def _literal_choices(params: type[Params], path: str) -> tuple[str, ...]:
    """Returns the allowed values of a param or an item such as `states[0]`; () if any value is allowed."""
    hints = get_type_hints(params)
    pending = [hints.get(path.partition("[")[0].partition(".")[0])]
    while pending:
        hint = pending.pop()
        if get_origin(hint) is Literal:
            return get_args(hint)
        pending += get_args(hint)
    return ()


def _check_base64(data: str) -> None:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise ValueError("data is not valid base64") from error


def _check_content_size(params: Params) -> None:
    size = len(_encode(getattr(params, "content", "")))
    if size > wire.MAX_MESSAGE:
        raise Problem(
            "invalid_params",
            f"content: {size:,} bytes as JSON; a message has at most {wire.MAX_MESSAGE:,}",
            "send less, or write it to a file and send the file's name",
        )
