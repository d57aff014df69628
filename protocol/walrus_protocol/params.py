"""The params of a request: bytes become a Struct of methods.py here, or a Problem that says what is wrong with them."""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from walrus_protocol import wire
from walrus_protocol.methods import METHODS, Params
from walrus_protocol.problems import Problem

_decoders: dict[str, msgspec.json.Decoder[Params]] = {
    name: msgspec.json.Decoder(params) for name, (params, _) in METHODS.items()
}
_encode = msgspec.json.Encoder().encode
_SHOWN = 80
"""Characters of a foreign name that an error repeats: enough to find it, too few to flood a log."""


def decode_params(method: str, raw: msgspec.Raw | bytes) -> Params:
    """The params of `method`. Raises Problem; its kind is `parse_error` only where the bytes are no JSON at all."""
    decoder = _decoders.get(method)
    if decoder is None:
        raise _unknown_method(method)
    try:
        params = decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explained(METHODS[method][0], str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("parse_error", f"the frame holds no JSON: {error}") from error
    except RecursionError as error:
        raise Problem("invalid_params", "params are nested too deeply") from error
    if len(bytes(raw)) > wire.MAX_MESSAGE:
        _check_content(params)
    return params


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, or "" where none is."""
    return next(iter(difflib.get_close_matches(name[:_SHOWN], list(names), n=1)), "")


def shown(name: str) -> str:
    """A foreign name as an error repeats it."""
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")


def _unknown_method(method: str) -> Problem:
    if method == "rpc.cancel":
        return Problem("method_not_found", "rpc.cancel takes no answer", "send it without an id")
    like = nearest(method, METHODS)
    hint = f"did you mean {like}?" if like else "rpc.discover lists the methods"
    return Problem("method_not_found", f"there is no method {shown(method)}", hint)


def _explained(params: type[Params], text: str) -> Problem:
    """msgspec's sentence, `Expected `int`, got `str` - at `$.session``, as one that begins with the path."""
    what, _, where = text.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    what = what.replace("`", "").replace("Object contains unknown field ", "unknown param ")
    what = what.replace("Object missing required field ", "missing param ")
    fields = params.__struct_fields__
    if what.startswith("unknown param "):
        name = what.removeprefix("unknown param ")
        like = nearest(name, fields)
        hint = f"did you mean {like}?" if like else f"params: {', '.join(fields) or 'none'}"
        return Problem("invalid_params", f"unknown param {shown(name)}", hint)
    if not path:
        subject = what if what.startswith("missing") else f"params: {_lowered(what)}"
        return Problem("invalid_params", subject, f"params: {', '.join(fields) or 'none'}")
    choices = _choices(params, path)
    return Problem("invalid_params", f"{path}: {_lowered(what)}"[:1000], f"one of {choices}" if choices else "")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _choices(params: type[Params], path: str) -> str:
    """The words a param may be, where it is one of a closed list; of `states[...]` those of an item."""
    hints = get_type_hints(params)
    pending = [hints.get(path.partition("[")[0].partition(".")[0])]
    while pending:
        hint = pending.pop()
        if get_origin(hint) is Literal:
            return ", ".join(get_args(hint))
        pending += get_args(hint)
    return ""


def _check_content(params: Params) -> None:
    size = len(_encode(getattr(params, "content", "")))
    if size > wire.MAX_MESSAGE:
        raise Problem(
            "invalid_params",
            f"content: takes {size:,} bytes as JSON, a message at most {wire.MAX_MESSAGE:,}",
            "send less, or write it to a file and name the file",
        )
