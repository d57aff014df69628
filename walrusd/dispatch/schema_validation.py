"""The gate of form: the tool exists, and the arguments fit its JSON Schema. Compiled once a tool."""

import difflib
from collections.abc import Mapping
from itertools import islice
from typing import Never

import jsonschema_rs
from jsonschema_rs import ValidationError, Validator

from walrus_protocol.content import ToolSchema
from walrusd.dispatch.capabilities import tools_in_scope
from walrusd.dispatch.gate import PolicySnapshot, Refusal
from walrusd.ports import ToolRequest

MAX_SCHEMA_ERRORS = 8
"""More would teach a model nothing that these do not."""
MAX_ERROR_CHARS = 300
"""Of one fault, which quotes the value: that may be a file's whole text."""


def compile_schema(schema: ToolSchema) -> Validator:
    """Raises ValueError where `schema.parameters` is no JSON Schema, or needs another document to be one."""
    try:
        return jsonschema_rs.validator_for(schema.parameters, retriever=_refuse_remote_ref)
    except ValueError as broken:
        raise ValueError(f"the schema of tool {schema.name} cannot be used: {broken}") from broken


def validate(policy: PolicySnapshot, request: ToolRequest) -> Refusal | None:
    """Refuses a tool that does not exist and arguments that do not fit."""
    call = request.call
    known = policy.tools.get(call.name)
    if known is None:
        return Refusal(
            outcome="unknown_tool", text=_unknown_tool_text(call.name, tools_in_scope(policy, request.agent))
        )
    if request.schema is None:
        return None  # how to spell what it does not have is of no use to the agent; the next gate says so
    if isinstance(call.arguments, str):
        return Refusal(outcome="invalid", text=_not_an_object_text(call.name, known.schema.parameters, call.arguments))
    faults = _schema_errors(known.validator, call.arguments)
    if not faults:
        return None
    lines = "\n".join(f"- {fault}" for fault in faults)
    return Refusal(
        outcome="invalid",
        text=f"The arguments of {call.name} do not fit its schema:\n{lines}\nMend them and call it again.",
    )


def _refuse_remote_ref(uri: str) -> Never:
    # The library would fetch a remote $ref: a schema from elsewhere must not make the daemon speak to the network.
    raise LookupError(f"{uri} is another document; a tool's schema must be whole")


def _unknown_tool_text(name: str, available: list[str]) -> str:
    if not available:
        return f"There is no tool named {_truncate(name)}, and you have no other tools."
    near = difflib.get_close_matches(name, available, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return f"There is no tool named {_truncate(name)}.{guess} Your tools are: {', '.join(available)}."


def _not_an_object_text(name: str, parameters: Mapping[str, object], text: str) -> str:
    needs = parameters.get("required")
    keys = f" with {', '.join(map(str, needs))}" if isinstance(needs, list) and needs else ""
    got = f"this came: {_truncate(text)}" if text.strip() else "nothing came"
    return f"The arguments of {name} must be one JSON object{keys}; {got}"


def _schema_errors(validator: Validator, arguments: dict[str, object]) -> list[str]:
    try:
        return sorted(_describe_error(error) for error in islice(validator.iter_errors(arguments), MAX_SCHEMA_ERRORS))
    except ValueError as beyond:  # nested deeper than the library goes, or a text that is no Unicode
        return [f"$: {_truncate(str(beyond))}"]


def _describe_error(error: ValidationError) -> str:
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"{path}: {_truncate(error.message)}"


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"
