"""Tests that a wire which merges messages by role can be built from a rendered history."""

import json
from collections.abc import Sequence
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.event_strategies import valid_logs
from tests.fakes.validators import Json, anthropic_blocks, as_anthropic
from walrus_protocol.content import Message, User
from walrus_protocol.events import AnySessionEvent
from walrusd.ports import EncodedMessage
from walrusd.session.conversation import ConversationView, HistoryWithSuffix
from walrusd.session.session import Session

CACHE_MARK = b',"cache_control":{"type":"ephemeral"}}'


def encode(message: Message) -> EncodedMessage:
    """Returns the blocks of a message, as JSON without the brackets of their list."""
    role, blocks = anthropic_blocks(message)
    return EncodedMessage(role, json.dumps(blocks).encode()[1:-1])


def join(messages: Sequence[EncodedMessage]) -> Sequence[Json]:
    """Returns the messages of a request: neighbours of one role are merged, and the last block has a cache mark."""
    merged = [
        [role.encode(), b",".join(message.blocks for message in group if message.blocks)]
        for role, group in groupby(messages, lambda message: message.role)
    ]
    if merged and merged[-1][1]:
        merged[-1][1] = merged[-1][1].removesuffix(b"}") + CACHE_MARK
    joined = b",".join(b'{"role":"%s","content":[%s]}' % (role, blocks) for role, blocks in merged)
    decoded: list[Json] = json.loads(b"[%s]" % joined)
    return decoded


def expected(messages: Sequence[Message]) -> Sequence[Json]:
    merged = as_anthropic(messages)
    if merged and merged[-1]["content"]:
        merged[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
    return merged


@given(valid_logs(), st.sampled_from([1, 3, 1000]))
def test_messages_of_one_role_can_be_merged_and_the_last_block_marked(
    log: list[AnySessionEvent], render_every: int
) -> None:
    session = Session(log[0].session or 0)
    for number, event in enumerate(log):
        session.apply(event)
        if number % render_every == 0:
            assert join(session.history.render("merging", encode)) == expected(session.history.messages)
    assert join(session.history.render("merging", encode)) == expected(session.history.messages)


def test_a_message_of_one_call_only_is_merged_too_and_leaves_the_history_unchanged() -> None:
    history = ConversationView([User("one")])
    with_suffix = HistoryWithSuffix(history, [User("just now")])
    assert join(with_suffix.render("merging", encode)) == expected([User("one"), User("just now")])
    assert join(history.render("merging", encode)) == expected([User("one")])
