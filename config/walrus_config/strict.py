"""Tables of TOML or YAML → Structs. Every key is known, of its type and possible, or is refused by name."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar, get_args, get_origin

import msgspec

from walrus_config import not_yet
from walrus_config.lines import KeyPath
from walrus_config.notes import Notes
from walrus_config.problems import did_you_mean
from walrus_config.schema import Secret, Section

S = TypeVar("S", bound=Section)

_EXPECTED = re.compile(r"Expected `([\w |]+)`(?: (>=|<=|>) ([\d.]+))?(?:, got `(\w+)`)?")
_ELEMENT = re.compile(r"\$\[(\d+)\]")
_WORDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
_WORDS |= {"array": "a list", "object": "a table", "null": "nothing"}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than"}
# What a name or a path cannot hold: NUL ends it for the system, and a terminal obeys the others.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_VARIABLE = re.compile(r"\$\{\w+\}")


def fill(kind: type[S], table: object, at: KeyPath, notes: Notes) -> S | None:
    """`table` as a `kind`. None if anything within was refused; the reasons are in the notes."""
    if not isinstance(table, dict):
        notes.refuse(at, f"expected a table, not {_kind_of(table)}")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    found: dict[str, object] = {}
    for key, value in table.items():
        path = (*at, str(key))
        if not_yet.refused(path, value):
            shown = f"{json.dumps(value)} is " if isinstance(value, str) else ""
            notes.refuse(path, f"{shown}not available yet", "take it out until it is")
        elif key not in fields:
            notes.refuse(path, "unknown key", did_you_mean(str(key), fields))
        elif (taken := _take(fields[key].type, value, path, notes)) is not None:
            found[key] = taken
    missing = [name for name, field in fields.items() if field.required and name not in table]
    for name in missing:
        choices = _choices(fields[name].type)
        notes.refuse((*at, name), "missing", f"one of {', '.join(choices)}" if choices else "")
    if missing or len(found) < len(table):
        return None
    build: Callable[..., S] = kind
    return build(**found)


def _take(annotation: object, value: object, at: KeyPath, notes: Notes) -> object:
    """One value, checked; None if it was refused. (TOML has no null, and no key here takes YAML's.)"""
    if get_origin(annotation) is Mapping:
        return _mapping(get_args(annotation)[1], value, at, notes)
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return fill(part, value, at, notes)
    taken = _leaf(annotation, value, at, notes)
    if taken and not_yet.ignored(at):
        notes.warn(at, "taken, and does nothing yet")
    return taken


def _leaf(annotation: object, value: object, at: KeyPath, notes: Notes) -> object:
    if value is None:
        notes.refuse(at, "has no value")
        return None
    try:
        taken: object = msgspec.convert(value, annotation, dec_hook=_secret)
    except msgspec.ValidationError as error:
        _refuse_value(str(error), annotation, value, at, notes)
        return None
    if dirty := [path for text, path in _texts(taken, at) if _CONTROL.search(text)]:
        for path in dirty:
            notes.refuse(path, "holds a control character")
        return None
    for text, path in _texts(taken, at):
        if _VARIABLE.search(text) and path[-1] != "probe":  # in which the shell sees to it
            hint = "only api_key and headers are filled from the environment"
            notes.warn(path, "${…} is taken as it is written", hint)
    return taken


def _mapping(annotation: object, value: object, at: KeyPath, notes: Notes) -> dict[str, object] | None:
    if not isinstance(value, dict):
        notes.refuse(at, f"expected a table, not {_kind_of(value)}")
        return None
    found: dict[str, object] = {}
    for key, entry in value.items():
        path = (*at, str(key))
        if not_yet.refused(path, entry):
            notes.refuse(path, "not available yet", "take it out until it is")
        elif (taken := _take(annotation, entry, path, notes)) is not None:
            found[key] = taken
    return found if len(found) == len(value) else None


def _refuse_value(error: str, annotation: object, value: object, at: KeyPath, notes: Notes) -> None:
    """msgspec's sentence, in the words of the file."""
    if element := _ELEMENT.search(error):
        at = (*at, int(element[1]))
    choices = _choices(annotation)
    expected = _EXPECTED.match(error)
    if choices and isinstance(value, str):
        near = did_you_mean(value, choices)
        also = "" if near.startswith("known") else near
        notes.refuse(at, f"{json.dumps(value)} is not one of {', '.join(choices)}", also)
    elif expected and expected[2]:
        notes.refuse(at, f"must be {_BOUNDS[expected[2]]} {float(expected[3]):,.0f}, not {value}")
    elif expected and expected[4]:
        wanted = _WORDS.get(expected[1].removesuffix(" | null"), expected[1])
        notes.refuse(at, f"expected {wanted}, not {_WORDS.get(expected[4], f'a {expected[4]}')}")
    else:
        notes.refuse(at, f"impossible value: {error[:1].lower()}{error[1:]}")


def _choices(annotation: object) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _kind_of(value: object) -> str:
    for kind, word in ((bool, "bool"), (str, "str"), (int, "int"), (float, "float"), (list, "array"), (dict, "object")):
        if isinstance(value, kind):
            return _WORDS[word]
    return "nothing" if value is None else f"a {type(value).__name__}"


def _texts(value: object, at: KeyPath) -> Iterable[tuple[str, KeyPath]]:
    if isinstance(value, str):
        yield value, at
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _texts(entry, (*at, index))


def _secret(kind: type, value: object) -> object:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise msgspec.ValidationError(f"Expected `str`, got `{_NAMES.get(type(value), type(value).__name__)}`")


_NAMES: dict[type, str] = {list: "array", dict: "object"}
