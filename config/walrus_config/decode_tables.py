"""Decodes TOML or YAML tables to Structs, and reports each error by its key.

Errors are unknown keys, wrong types and invalid values.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from walrus_config.diagnostics import Diagnostics
from walrus_config.errors import did_you_mean
from walrus_config.schema import Secret, Section
from walrus_config.schema.section import KeyMark, NotYet, section_in
from walrus_config.toml_positions import KeyPath

S = TypeVar("S", bound=Section)

_EXPECTED = re.compile(r"Expected `([\w |]+)`(?: (>=|<=|>) ([\d.]+))?(?:, got `(\w+)`)?")
_ELEMENT = re.compile(r"\$\[(\d+)\]")
_PLAIN_TYPE_NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
_PLAIN_TYPE_NAMES |= {"array": "a list", "object": "a table", "null": "nothing"}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than"}
# Characters that names and paths must not contain: NUL ends them for the system, and terminals interpret the others.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_VARIABLE = re.compile(r"\$\{\w+\}")


def decode_section(section_type: type[S], table: object, key_path: KeyPath, diagnostics: Diagnostics) -> S | None:
    """Returns `table` as a `section_type`, or None after adding the errors in it to `diagnostics`."""
    if not isinstance(table, dict):
        _convert(dict, table, key_path, diagnostics)
        return None
    fields = {field.name: field for field in msgspec.structs.fields(section_type)}
    decoded: dict[str, object] = {}
    for key, value in table.items():
        path = (*key_path, str(key))
        marks = get_args(fields[key].type) if key in fields else ()
        if key in section_type.unsupported_keys or any(
            isinstance(mark, NotYet) and value in mark.values for mark in marks
        ):
            subject = f"{json.dumps(value)} is " if isinstance(value, str) else ""
            diagnostics.add_error(path, f"{subject}not available yet", "remove it")
        elif key not in fields:
            diagnostics.add_error(path, "unknown key", did_you_mean(str(key), fields))
        elif (decoded_value := _decode_value(fields[key].type, value, path, diagnostics)) is not None:
            decoded[key] = decoded_value
            if decoded_value and KeyMark.NO_EFFECT in marks:
                diagnostics.add_warning(path, "accepted, but has no effect yet")
    missing = [name for name, field in fields.items() if field.required and name not in table]
    for name in missing:
        choices = _literal_choices(fields[name].type)
        diagnostics.add_error((*key_path, name), "missing", f"one of {', '.join(choices)}" if choices else "")
    if missing or len(decoded) < len(table):
        return None
    build: Callable[..., S] = section_type
    return build(**decoded)


def _decode_value(annotation: object, value: object, key_path: KeyPath, diagnostics: Diagnostics) -> object:
    """Returns a checked value, or None if it was refused. (TOML has no null, and no key accepts YAML's.)"""
    if get_origin(annotation) is Mapping:
        return _decode_mapping(get_args(annotation)[1], value, key_path, diagnostics)
    if section_type := section_in(annotation):
        section_type = section_type.types_by_name().get(str(key_path[-1]), section_type)
        return decode_section(section_type, value, key_path, diagnostics)
    return _decode_leaf(annotation, value, key_path, diagnostics)


def _decode_leaf(annotation: object, value: object, key_path: KeyPath, diagnostics: Diagnostics) -> object:
    if value is None:
        diagnostics.add_error(key_path, "has no value")
        return None
    is_secret = Secret in (annotation, *get_args(annotation))
    decoded = _convert(str if is_secret else annotation, value, key_path, diagnostics)
    if isinstance(decoded, str) and is_secret:
        return Secret(decoded)
    if invalid_paths := [path for text, path in _iter_texts(decoded, key_path) if _CONTROL.search(text)]:
        for path in invalid_paths:
            diagnostics.add_error(path, "contains a control character")
        return None
    for text, path in _iter_texts(decoded, key_path):
        if _VARIABLE.search(text) and path[-1] != "probe":  # the shell replaces it in a probe
            hint = "only api_key and headers take values from the environment"
            diagnostics.add_warning(path, "${…} is not replaced here", hint)
    return decoded


def _decode_mapping(
    annotation: object, value: object, key_path: KeyPath, diagnostics: Diagnostics
) -> dict[str, object] | None:
    if not isinstance(value, dict):
        _convert(dict, value, key_path, diagnostics)
        return None
    decoded: dict[str, object] = {}
    for key, entry in value.items():
        path = (*key_path, str(key))
        if (decoded_entry := _decode_value(annotation, entry, path, diagnostics)) is not None:
            decoded[key] = decoded_entry
    return decoded if len(decoded) == len(value) else None


def _convert(annotation: Any, value: object, key_path: KeyPath, diagnostics: Diagnostics) -> Any:
    """Returns a checked value, or None after adding the error in it to `diagnostics`."""
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        _report_invalid_value(str(error), annotation, value, key_path, diagnostics)
        return None


def _report_invalid_value(
    error: str, annotation: object, value: object, key_path: KeyPath, diagnostics: Diagnostics
) -> None:
    """Adds an error with msgspec's message, rewritten with the names that TOML's types have for people."""
    if element := _ELEMENT.search(error):
        key_path = (*key_path, int(element[1]))
    choices = _literal_choices(annotation)
    expected = _EXPECTED.match(error)
    if choices and isinstance(value, str):
        hint = did_you_mean(value, choices)
        hint = "" if hint.startswith("known") else hint
        diagnostics.add_error(key_path, f"{json.dumps(value)} is not one of {', '.join(choices)}", hint)
    elif expected and expected[2]:
        diagnostics.add_error(key_path, f"must be {_BOUNDS[expected[2]]} {float(expected[3]):,.0f}, not {value}")
    elif expected and expected[4]:
        wanted = _PLAIN_TYPE_NAMES.get(expected[1].removesuffix(" | null"), expected[1])
        diagnostics.add_error(
            key_path, f"expected {wanted}, not {_PLAIN_TYPE_NAMES.get(expected[4], f'a {expected[4]}')}"
        )
    else:
        diagnostics.add_error(key_path, f"invalid value: {error[:1].lower()}{error[1:]}")


def _literal_choices(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _literal_choices(part)]


def _iter_texts(value: object, key_path: KeyPath) -> Iterable[tuple[str, KeyPath]]:
    if isinstance(value, str):
        yield value, key_path
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _iter_texts(entry, (*key_path, index))
