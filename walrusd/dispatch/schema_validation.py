"""The validation gate: the tool must exist, and the arguments must match its JSON Schema.

A schema is compiled once for each tool.
"""

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
"""Maximum errors shown for one call; more would not help a model."""
MAX_ERROR_CHARS = 300
"""Maximum characters of one error: it quotes the value, which may be the whole text of a file."""


def compile_schema(schema: ToolSchema) -> Validator:
    """Compiles a tool's schema; raises ValueError if it is invalid or refers to another document."""
    try:
        return jsonschema_rs.validator_for(schema.parameters, retriever=_refuse_remote_ref)
    except ValueError as broken:
        raise ValueError(f"the schema of tool {schema.name} cannot be used: {broken}") from broken


def validate(policy: PolicySnapshot, request: ToolRequest) -> Refusal | None:
    """Refuses a tool that does not exist, and arguments that do not match its schema."""
    call = request.call
    configured = policy.tools.get(call.name)
    if configured is None:
        return Refusal(
            outcome="unknown_tool", text=_unknown_tool_text(call.name, tools_in_scope(policy, request.agent))
        )
    if request.schema is None:
        return None  # the next gate denies a tool that the agent does not have; argument errors would not help it
    if isinstance(call.arguments, str):
        return Refusal(
            outcome="invalid", text=_not_an_object_text(call.name, configured.schema.parameters, call.arguments)
        )
    errors = _schema_errors(configured.validator, call.arguments)
    if not errors:
        return None
    lines = "\n".join(f"- {error}" for error in errors)
    return Refusal(
        outcome="invalid",
        text=f"The arguments of {call.name} do not match its schema:\n{lines}\nCorrect them and call it again.",
    )


def _refuse_remote_ref(uri: str) -> Never:
    # The library would fetch a remote $ref: a schema from outside must not make the daemon access the network.
    raise LookupError(f"{uri} is another document; a tool's schema must be self-contained")


def _unknown_tool_text(name: str, available: list[str]) -> str:
    if not available:
        return f"There is no tool named {_truncate(name)}, and you have no other tools."
    near = difflib.get_close_matches(name, available, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return f"There is no tool named {_truncate(name)}.{guess} Your tools are: {', '.join(available)}."


def _not_an_object_text(name: str, parameters: Mapping[str, object], text: str) -> str:
    required = parameters.get("required")
    keys = f" with {', '.join(map(str, required))}" if isinstance(required, list) and required else ""
    received = f"received: {_truncate(text)}" if text.strip() else "received nothing"
    return f"The arguments of {name} must be one JSON object{keys}; {received}"


def _schema_errors(validator: Validator, arguments: dict[str, object]) -> list[str]:
    try:
        return sorted(_describe_error(error) for error in islice(validator.iter_errors(arguments), MAX_SCHEMA_ERRORS))
    except ValueError as error:  # nested deeper than the library supports, or a text with a lone surrogate
        return [f"$: {_truncate(str(error))}"]


def _describe_error(error: ValidationError) -> str:
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"{path}: {_truncate(error.message)}"


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"
