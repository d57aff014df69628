"""Decodes TOML or YAML tables to Structs, and reports each error by its key.

Errors are unknown keys, wrong types and invalid values.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from walrus_config.diagnostics import Location
from walrus_config.errors import did_you_mean
from walrus_config.schema import Secret, Section
from walrus_config.schema.section import KeyMark, NotYet, section_in

S = TypeVar("S", bound=Section)

_EXPECTED = re.compile(r"Expected `([\w |]+)`(?: (>=|<=|>) ([\d.]+))?(?:, got `(\w+)`)?")
_ELEMENT = re.compile(r"\$\[(\d+)\]")
_PLAIN_TYPE_NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
_PLAIN_TYPE_NAMES |= {"array": "a list", "object": "a table", "null": "nothing"}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than"}
# Characters that names and paths must not contain: NUL ends them for the system, and terminals interpret the others.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_VARIABLE = re.compile(r"\$\{\w+\}")


def decode_section(section_type: type[S], table: object, at: Location) -> S | None:
    """Returns `table` as a `section_type`, or None after reporting the errors in it."""
    if not isinstance(table, dict):
        _convert(dict, table, at)
        return None
    fields = {field.name: field for field in msgspec.structs.fields(section_type)}
    decoded: dict[str, object] = {}
    for key, value in table.items():
        key_at = at.key(str(key))
        marks = get_args(fields[key].type) if key in fields else ()
        if key in section_type.unsupported_keys or any(
            isinstance(mark, NotYet) and value in mark.values for mark in marks
        ):
            subject = f"{json.dumps(value)} is " if isinstance(value, str) else ""
            key_at.add_error(f"{subject}not available yet", "remove it")
        elif key not in fields:
            key_at.add_error("unknown key", did_you_mean(str(key), fields))
        elif (decoded_value := _decode_value(fields[key].type, value, key_at)) is not None:
            decoded[key] = decoded_value
            if decoded_value and KeyMark.NO_EFFECT in marks:
                key_at.add_warning("accepted, but has no effect yet")
    missing = [name for name, field in fields.items() if field.required and name not in table]
    for name in missing:
        choices = _literal_choices(fields[name].type)
        at.key(name).add_error("missing", f"one of {', '.join(choices)}" if choices else "")
    if missing or len(decoded) < len(table):
        return None
    build: Callable[..., S] = section_type
    return build(**decoded)


def _decode_value(annotation: object, value: object, at: Location) -> object:
    """Returns a checked value, or None if it was refused. (TOML has no null, and no key accepts YAML's.)"""
    if get_origin(annotation) is Mapping:
        return _decode_mapping(get_args(annotation)[1], value, at)
    if section_type := section_in(annotation):
        section_type = section_type.types_by_name().get(str(at.path[-1]), section_type)
        return decode_section(section_type, value, at)
    return _decode_leaf(annotation, value, at)


def _decode_leaf(annotation: object, value: object, at: Location) -> object:
    if value is None:
        at.add_error("has no value")
        return None
    is_secret = Secret in (annotation, *get_args(annotation))
    decoded = _convert(str if is_secret else annotation, value, at)
    if isinstance(decoded, str) and is_secret:
        return Secret(decoded)
    if invalid := [place for text, place in _iter_texts(decoded, at) if _CONTROL.search(text)]:
        for place in invalid:
            place.add_error("contains a control character")
        return None
    for text, place in _iter_texts(decoded, at):
        if _VARIABLE.search(text) and place.path[-1] != "probe":  # the shell replaces it in a probe
            hint = "only api_key and headers take values from the environment"
            place.add_warning("${…} is not replaced here", hint)
    return decoded


def _decode_mapping(annotation: object, value: object, at: Location) -> dict[str, object] | None:
    if not isinstance(value, dict):
        _convert(dict, value, at)
        return None
    decoded: dict[str, object] = {}
    for key, entry in value.items():
        if (decoded_entry := _decode_value(annotation, entry, at.key(str(key)))) is not None:
            decoded[key] = decoded_entry
    return decoded if len(decoded) == len(value) else None


def _convert(annotation: Any, value: object, at: Location) -> Any:
    """Returns a checked value, or None after reporting the error in it."""
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        _report_invalid_value(str(error), annotation, value, at)
        return None


def _report_invalid_value(error: str, annotation: object, value: object, at: Location) -> None:
    """Adds an error with msgspec's message, rewritten with the names that TOML's types have for people."""
    if element := _ELEMENT.search(error):
        at = at.key(int(element[1]))
    choices = _literal_choices(annotation)
    expected = _EXPECTED.match(error)
    if choices and isinstance(value, str):
        hint = did_you_mean(value, choices)
        hint = "" if hint.startswith("known") else hint
        at.add_error(f"{json.dumps(value)} is not one of {', '.join(choices)}", hint)
    elif expected and expected[2]:
        at.add_error(f"must be {_BOUNDS[expected[2]]} {float(expected[3]):,.0f}, not {value}")
    elif expected and expected[4]:
        wanted = _PLAIN_TYPE_NAMES.get(expected[1].removesuffix(" | null"), expected[1])
        at.add_error(f"expected {wanted}, not {_PLAIN_TYPE_NAMES.get(expected[4], f'a {expected[4]}')}")
    else:
        at.add_error(f"invalid value: {error[:1].lower()}{error[1:]}")


def _literal_choices(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _literal_choices(part)]


def _iter_texts(value: object, at: Location) -> Iterable[tuple[str, Location]]:
    if isinstance(value, str):
        yield value, at
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _iter_texts(entry, at.key(index))
