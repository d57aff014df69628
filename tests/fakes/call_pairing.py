"""Checks that each tool call is answered once, right after the message that made it.

Every provider has this rule.
"""

from collections.abc import Iterable

from walrus_protocol.content import Assistant, Message, ToolOutput, User


def has_paired_calls(messages: Iterable[Message]) -> bool:
    """Returns whether every call, and nothing else, is answered right after its message in call order."""
    expected: list[str] = []
    for message in messages:
        match message:
            case ToolOutput(call_id=call):
                if not expected or expected.pop(0) != call:
                    return False
            case Assistant(calls=calls):
                if expected:
                    return False
                expected = [call.id for call in calls]
            case User():
                if expected:
                    return False
    return not expected
