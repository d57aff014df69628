"""Tests of rewinds and resume points against a model that copies the conversation at every event."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.event_strategies import find_resume_point, valid_logs
from walrus_protocol.content import Assistant, Message, ToolCall, ToolOutput, User
from walrus_protocol.events import (
    AnySessionEvent,
    AssistantMessage,
    CheckpointCreated,
    Done,
    Parent,
    Rewound,
    SessionCreated,
    ToolCallsComplete,
    ToolCallsStart,
    ToolResult,
    ToolStarted,
    UserMessage,
)
from walrusd.ports import EncodedMessage
from walrusd.session.conversation import Conversation, ConversationView
from walrusd.session.message_tree import MessageTree, ResumePoint
from walrusd.session.session import Checkpoint, Session
from walrusd.session.session_state import fill_derived_fields

READ = ToolCall("c1", "read", {})
WRITE = ToolCall("c2", "write", {})
A_ROUND: tuple[AnySessionEvent, ...] = (
    SessionCreated(agent="a"),
    UserMessage(content="go"),
    AssistantMessage(round=1, content="look", calls=(READ, WRITE)),
    ToolCallsStart(calls=(READ, WRITE)),
    ToolStarted(call_id="c2", name="write"),
    ToolResult(call_id="c2", name="write", output="b"),
    ToolResult(call_id="c1", name="read", output="a"),
    ToolCallsComplete(count=2),
    AssistantMessage(round=2, content="done"),
    Done(stop_reason="text_response"),
)


def replayed(*events: AnySessionEvent, session: int = 1) -> tuple[Session, list[AnySessionEvent]]:
    """Returns a session after these events, and its log: the events as a recorder would stamp them."""
    folded, log = Session(session), list[AnySessionEvent]()
    for ts, event in enumerate(events, 1):
        log.append(fill_derived_fields(folded.state, event, float(ts)))
        folded.apply(log[-1])
    return folded, log


def visible_after_each_event(log: Sequence[AnySessionEvent]) -> list[list[Message]]:
    """Returns the messages that the model sees before the first event and after each: the reference model."""
    visible: list[list[Message]] = [[]]
    outputs: dict[str, ToolOutput] = {}
    calls: tuple[ToolCall, ...] = ()
    for event in log:
        now = list(visible[-1])
        match event:
            case UserMessage():
                content = f"From {event.sender}:\n{event.content}" if event.sender else event.content
                now.append(User(content))
            case AssistantMessage():
                calls = event.calls
                if str(event.content).strip() or event.calls:
                    now.append(Assistant(content=event.content, calls=event.calls))
            case ToolResult():
                outputs[event.call_id] = ToolOutput(call_id=event.call_id, name=event.name, output=event.output)
            case ToolCallsComplete():
                now += [outputs[call.id] for call in calls]
            case Rewound(to=to):
                now = visible[to]
            case _:
                pass
        visible.append(now)
    return visible


def test_the_generated_logs_contain_rewinds_and_checkpoints() -> None:
    """Without rewinds in the generated logs, the tests below would prove nothing."""
    drawn: list[type[AnySessionEvent]] = []

    @given(valid_logs())
    def collect_types(log: list[AnySessionEvent]) -> None:
        drawn.extend(type(event) for event in log)

    collect_types()
    assert {Rewound, CheckpointCreated} <= set(drawn)


@given(valid_logs())
def test_visible_messages_after_each_event_match_the_reference_model(log: list[AnySessionEvent]) -> None:
    session, visible = Session(log[0].session or 0), visible_after_each_event(log)
    for seq, event in enumerate(log, 1):
        session.apply(event)
        assert session.history.messages == session.conversation.own_messages() == visible[seq]


@given(valid_logs())
def test_a_session_state_counts_the_user_and_assistant_messages_that_the_model_sees(log: list[AnySessionEvent]) -> None:
    session = Session(log[0].session or 0)
    for event in log:
        session.apply(event)
        counted = [message for message in session.history.messages if not isinstance(message, ToolOutput)]
        assert session.state.messages == len(counted)


@given(valid_logs())
def test_a_resume_point_is_the_last_point_with_no_open_call(log: list[AnySessionEvent]) -> None:
    session, expected = Session(log[0].session or 0), ResumePoint(0, 0)
    for at, event in enumerate(log, 1):
        session.apply(event)
        if session.turn is None or not (session.turn.calls or session.turn.executing):
            expected = ResumePoint(at, session.state.messages)
        assert find_resume_point(log, at) == expected


@given(valid_logs(), st.data())
def test_a_resume_point_needs_the_events_of_its_round_and_no_more(
    log: list[AnySessionEvent], data: st.DataObject
) -> None:
    at = data.draw(st.integers(1, len(log)))
    counting = Done | Rewound | ToolCallsComplete
    first = next((seq for seq in range(at, 0, -1) if isinstance(log[seq - 1], counting)), 1)
    assert find_resume_point(log, at, down_to=first) == find_resume_point(log, at)


def test_the_resume_point_inside_a_round_is_right_before_the_message_with_the_calls() -> None:
    _, log = replayed(*A_ROUND)
    found = [find_resume_point(log, at) for at in range(1, len(log) + 1)]
    before, done = ResumePoint(2, 1), [ResumePoint(8, 2), ResumePoint(9, 3), ResumePoint(10, 3)]
    assert found == [ResumePoint(1, 0), before, *[before] * 5, *done]


def test_an_older_log_whose_events_count_no_messages_is_read_further_back() -> None:
    _, log = replayed(*A_ROUND, UserMessage(content="more"))
    old = [*log[:7], ToolCallsComplete(count=2), log[8], Done(stop_reason="text_response"), log[10]]
    assert [type(event) for event in old] == [type(event) for event in log]
    assert [find_resume_point(old, at) for at in range(1, 12)] == [find_resume_point(log, at) for at in range(1, 12)]
    assert (find_resume_point(old, 11), find_resume_point(old, 11, down_to=2)) == (ResumePoint(11, 4), None)


entries = st.lists(st.one_of(st.none(), st.integers(0, 100)), max_size=60)
"""Entries of a log: None is a message, a number is a rewind to that percentage of the log so far."""


@given(entries)
def test_a_message_tree_matches_the_reference_model_at_every_seq(log: list[int | None]) -> None:
    tree, visible = MessageTree(), [list[Message]()]
    for seq, percent in enumerate(log, 1):
        if percent is None:
            tree.add(seq, User(str(seq)))
            visible.append([*visible[-1], User(str(seq))])
        else:
            to = percent * (seq - 1) // 100
            tree.rewind(seq, to)
            visible.append(visible[to])
    assert [tree.messages_at(seq) for seq in range(len(visible))] == visible


def test_ten_thousand_rewinds_of_rewinds_are_followed_without_recursion() -> None:
    tree = MessageTree()
    for seq in range(1, 20_001, 2):
        tree.add(seq, User(str(seq)))
        tree.rewind(seq + 1, seq)
    assert len(tree.messages_at(20_000)) == 10_000


def test_a_rewind_can_be_rewound() -> None:
    session, _ = replayed(
        SessionCreated(agent="a"),
        UserMessage(content="one"),
        AssistantMessage(round=1, content="1"),
        Done(stop_reason="text_response"),
        Rewound(to=1, messages=0),
        UserMessage(content="two"),
        Done(stop_reason="error"),
        Rewound(to=4, messages=2),
        UserMessage(content="three"),
    )
    assert session.history.messages == [User("one"), Assistant(content="1"), User("three")]
    assert (session.state.messages, session.state.turns, session.state.state) == (3, 3, "processing")


def test_costs_and_turn_counts_are_not_rewound() -> None:
    session, _ = replayed(
        SessionCreated(agent="a"),
        UserMessage(content="one"),
        AssistantMessage(round=1, content="1", cost_usd=0.5),
        Done(stop_reason="text_response"),
    )
    before = session.state
    session.apply(fill_derived_fields(session.state, Rewound(to=1), 5.0))
    after = session.state
    assert (after.usage, after.cost_usd, after.turns, after.messages) == (before.usage, 0.5, 1, 0)


def encode(message: Message) -> EncodedMessage:
    return EncodedMessage(type(message).__name__, repr(message).encode())


@given(valid_logs(), st.lists(st.booleans(), min_size=40, max_size=40))
def test_rendered_messages_are_right_whenever_they_are_requested(
    log: list[AnySessionEvent], render_after: list[bool]
) -> None:
    session = Session(log[0].session or 0)
    for event, render_now in zip(log, render_after, strict=False):
        session.apply(event)
        if render_now:
            assert session.history.render("w", encode) == [*map(encode, session.history.messages)]
    assert session.history.render("w", encode) == [*map(encode, session.history.messages)]


def test_messages_kept_by_a_rewind_are_not_encoded_again() -> None:
    encoded: list[Message] = []

    def count(message: Message) -> EncodedMessage:
        encoded.append(message)
        return encode(message)

    first, second, third = User("1"), User("2"), User("3")
    history = ConversationView([first, second])
    held, sent = history.messages, history.render("w", count)
    history.replace_messages([first, third])
    assert history.render("w", count) == [encode(first), encode(third)]
    assert encoded == [first, second, third]
    assert (held, sent) == ([first, second], [encode(first), encode(second)]), "holders of the old list keep it"


@given(valid_logs(), st.data())
def test_inherited_messages_come_first_whenever_they_are_loaded(
    log: list[AnySessionEvent], data: st.DataObject
) -> None:
    log = [SessionCreated(agent="a", parent=Parent(session=7, seq=9)), *log[1:]]
    inherited: list[Message] = [User("from 7"), Assistant(content="yes")]
    loaded_at = data.draw(st.integers(1, len(log)))
    conversation, visible = Conversation(), visible_after_each_event(log)
    for seq, event in enumerate(log, 1):
        conversation.apply(seq, event)
        if seq == loaded_at:
            assert conversation.missing_parent == Parent(session=7, seq=9)
            conversation.inherit(inherited)
        if seq >= loaded_at:
            assert conversation.history.messages == [*inherited, *visible[seq]]
            assert conversation.own_messages() == visible[seq]


def test_the_latest_use_of_a_checkpoint_name_counts() -> None:
    session, _ = replayed(
        SessionCreated(agent="a"),
        CheckpointCreated(name="start", at=1),
        UserMessage(content="one"),
        CheckpointCreated(name="asked", at=3),
        CheckpointCreated(name="start", at=2),
        Done(stop_reason="error"),
        CheckpointCreated(name="failed", at=6),
    )
    assert list(session.checkpoints.values()) == [
        Checkpoint(name="asked", at=3, seq=4, ts=4.0),
        Checkpoint(name="start", at=2, seq=5, ts=5.0),
        Checkpoint(name="failed", at=6, seq=7, ts=7.0),
    ]
