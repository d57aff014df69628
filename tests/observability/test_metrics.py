"""Tests of the metrics, of their text (with Prometheus' own parser) and of the minute log."""

from collections.abc import Iterator

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from structlog.typing import EventDict
from trio.testing import MockClock

from walrus_protocol.content import TurnError, Usage
from walrus_protocol.events import AnyEvent, AssistantMessage, Done, TextDelta, Tick, ToolResult, UserMessage
from walrusd.observability.instruments import MAX_LABEL_VALUES
from walrusd.observability.metrics import Gauges, Metrics
from walrusd.observability.prometheus import MetricFamily, MetricSample, format_prometheus, index_by_name

GAUGES = Gauges(
    live_event_counts={TextDelta: 2},
    uptime_s=12.5,
    sessions_open=10_000,
    sessions_live=12,
    sessions_running=2,
    connections=3,
    rss_bytes=50_000_000,
    fds=24,
    tasks=31,
    threads=4,
    children=1,
    db_bytes=81_920,
    wal_bytes=4_152_992,
)
PRICED_MESSAGE = AssistantMessage(
    round=1, provider="deepseek", model="chat", usage=Usage(100, 20, 50, 7, 5), cost_usd=0.25
)
A_TURN: tuple[AnyEvent, ...] = (
    UserMessage(content="What is new?"),
    TextDelta(text="Let me ", round=1, at=0),
    TextDelta(text="look.", round=1, at=7),
    PRICED_MESSAGE,
    ToolResult(call_id="1", name="read", output="", outcome="ok"),
    ToolResult(call_id="2", name="read", output="", outcome="denied", is_error=True),
    ToolResult(call_id="3", name="raed", output="", outcome="unknown_tool", is_error=True),
    PRICED_MESSAGE,
    Done(stop_reason="text_response", rounds=2, cost_usd=0.5, duration_ms=700),
)
FAILED_TURN = Done(
    stop_reason="error",
    error=TurnError(kind="provider_quota", message="No credit left"),
    cost_usd=None,
    duration_ms=2_000_000,
)


def metrics_of(*events: AnyEvent, agent: str = "walrus") -> Metrics:
    metrics = Metrics("1.2.3")
    for event in events:
        metrics.on_event(agent, event)
    return metrics


def changed_samples(metrics: Metrics) -> dict[str, float]:
    """Returns the samples that are not 0, without the gauges and the event counts."""
    gauges = index_by_name(Metrics("1.2.3").read_families(GAUGES))
    return {
        name: value
        for name, value in index_by_name(metrics.read_families(GAUGES)).items()
        if value != gauges.get(name) and "events" not in name
    }


def parse_prometheus(text: str) -> dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    """Parses the text with Prometheus' own parser; returns the samples by type and name of their family."""
    return {
        f"{family.type} {family.name}": {
            (sample.name, tuple(sample.labels.items())): sample.value for sample in family.samples
        }
        for family in text_string_to_metric_families(text)
    }


def test_a_turn_is_counted_by_its_outcome() -> None:
    assert changed_samples(metrics_of(*A_TURN)) == {
        'walrusd_turns_total{stop_reason="text_response"}': 1,
        'walrusd_agent_turns_total{agent="walrus"}': 1,
        'walrusd_turn_seconds_bucket{le="1.0"}': 1,
        'walrusd_turn_seconds_bucket{le="5.0"}': 1,
        'walrusd_turn_seconds_bucket{le="15.0"}': 1,
        'walrusd_turn_seconds_bucket{le="60.0"}': 1,
        'walrusd_turn_seconds_bucket{le="300.0"}': 1,
        'walrusd_turn_seconds_bucket{le="1800.0"}': 1,
        'walrusd_turn_seconds_bucket{le="+Inf"}': 1,
        "walrusd_turn_seconds_sum": 0.7,
        "walrusd_turn_seconds_count": 1,
        'walrusd_model_rounds_total{provider="deepseek",model="chat"}': 2,
        'walrusd_tokens_total{provider="deepseek",model="chat",kind="input"}': 200,
        'walrusd_tokens_total{provider="deepseek",model="chat",kind="output"}': 40,
        'walrusd_tokens_total{provider="deepseek",model="chat",kind="cache_read"}': 100,
        'walrusd_tokens_total{provider="deepseek",model="chat",kind="cache_write"}': 14,
        'walrusd_cost_usd_total{provider="deepseek",model="chat"}': 0.5,
        'walrusd_tool_calls_total{tool="read",outcome="ok"}': 1,
        'walrusd_tool_calls_total{tool="read",outcome="denied"}': 1,
        'walrusd_tool_calls_total{tool="other",outcome="unknown_tool"}': 1,
    }


def test_events_are_counted_by_type() -> None:
    names = index_by_name(metrics_of(*A_TURN).read_families(GAUGES))
    events = {name: value for name, value in names.items() if "events" in name and value}
    assert events == {
        'walrusd_events_total{type="user_message"}': 1,
        'walrusd_events_total{type="text_delta"}': 2,
        'walrusd_events_total{type="assistant_message"}': 2,
        'walrusd_events_total{type="tool_result"}': 3,
        'walrusd_events_total{type="done"}': 1,
    }
    assert names['walrusd_events_total{type="tool_output"}'] == 0


def test_an_unknown_cost_is_counted_separately_and_never_as_zero() -> None:
    answer = AssistantMessage(round=1, provider="new", model="m", usage=Usage(10, 1), cost_usd=None)
    found = changed_samples(metrics_of(answer, FAILED_TURN))
    assert not [name for name in found if "cost_usd" in name]
    assert found["walrusd_turns_cost_unknown_total"] == 1
    assert found['walrusd_model_rounds_cost_unknown_total{provider="new",model="m"}'] == 1
    assert found['walrusd_turn_errors_total{kind="provider_quota"}'] == 1
    assert found['walrusd_turn_seconds_bucket{le="+Inf"}'] == 1
    assert 'walrusd_turn_seconds_bucket{le="1800.0"}' not in found


def test_ticks_are_counted_by_outcome_once_they_have_one() -> None:
    tick = Tick(tick=1, schedule="heartbeat:walrus", agent="walrus", slot=0.0, outcome="running")
    missed = Tick(tick=2, schedule="heartbeat:walrus", agent="walrus", slot=60.0, outcome="missed", count=7)
    ran = Tick(tick=1, schedule="heartbeat:walrus", agent="walrus", slot=0.0, outcome="ran")
    assert changed_samples(metrics_of(tick, missed, ran)) == {
        'walrusd_ticks_total{outcome="ran"}': 1,
        'walrusd_ticks_total{outcome="missed"}': 7,
    }


def test_label_values_beyond_the_limit_are_counted_as_other() -> None:
    metrics = Metrics("1.2.3")
    for number in range(MAX_LABEL_VALUES + 50):
        metrics.on_event(f"agent {number}", Done(stop_reason="no_action"))
        metrics.on_event("walrus", ToolResult(call_id="1", name=f"tool {number}", output=""))
        metrics.on_event("walrus", AssistantMessage(round=1, provider="p", model=f"model {number}", cost_usd=0.5))
    names = index_by_name(metrics.read_families(GAUGES))
    assert names['walrusd_agent_turns_total{agent="other"}'] == 50
    assert names['walrusd_tool_calls_total{tool="other",outcome="ok"}'] == 50
    assert names['walrusd_cost_usd_total{provider="other",model="other"}'] == 25
    assert names['walrusd_agent_turns_total{agent="agent 0"}'] == 1
    assert len([name for name in names if name.startswith("walrusd_agent_turns")]) == MAX_LABEL_VALUES + 1


def test_connections_and_requests_are_counted() -> None:
    metrics = Metrics("1.2.3")
    metrics.on_connection()
    metrics.on_connection(rejection="too_many")
    metrics.on_request("daemon.ping", None)
    metrics.on_request("session.get", "session_not_found")
    metrics.on_invalid_request("parse_error")
    assert changed_samples(metrics) == {
        "walrusd_connections_total": 1,
        'walrusd_connections_refused_total{reason="too_many"}': 1,
        'walrusd_requests_total{method="daemon.ping"}': 1,
        'walrusd_requests_total{method="session.get"}': 1,
        'walrusd_request_errors_total{kind="session_not_found"}': 1,
        'walrusd_request_errors_total{kind="parse_error"}': 1,
    }


def test_the_gauges_show_current_values() -> None:
    names = index_by_name(Metrics("1.2.3").read_families(GAUGES))
    assert {name: value for name, value in names.items() if value and "{" not in name} == {
        "walrusd_uptime_seconds": 12.5,
        "walrusd_sessions_open": 10_000,
        "walrusd_sessions_live": 12,
        "walrusd_sessions_running": 2,
        "walrusd_connections": 3,
        "walrusd_resident_memory_bytes": 50_000_000,
        "walrusd_open_fds": 24,
        "walrusd_tasks": 31,
        "walrusd_threads": 4,
        "walrusd_children": 1,
        "walrusd_db_bytes": 81_920,
        "walrusd_wal_bytes": 4_152_992,
    }
    assert names['walrusd_info{version="1.2.3"}'] == 1


def test_prometheus_reads_the_same_numbers_and_types() -> None:
    families = metrics_of(*A_TURN, FAILED_TURN).read_families(GAUGES)
    read = parse_prometheus(format_prometheus(families))
    values = [value for samples in read.values() for value in samples.values()]
    assert values == list(index_by_name(families).values())
    assert read["counter walrusd_turns"]["walrusd_turns_total", (("stop_reason", "error"),)] == 1
    assert read["gauge walrusd_wal_bytes"] == {("walrusd_wal_bytes", ()): 4_152_992}
    seconds = read["histogram walrusd_turn_seconds"]
    assert seconds["walrusd_turn_seconds_bucket", (("le", "+Inf"),)] == seconds["walrusd_turn_seconds_count", ()] == 2
    assert len(read) == len(families)
    assert all(family.help for family in families)


def test_the_prometheus_text_is_exact() -> None:
    calls = MetricFamily(
        name="calls_total",
        kind="counter",
        help="A backslash \\ and\na line",
        samples=[MetricSample(2, (("tool", 'say "hi"\n\\'), ("outcome", "ok"))), MetricSample(0.1)],
    )
    assert format_prometheus([calls]) == (
        "# HELP calls_total A backslash \\\\ and\\na line\n"
        "# TYPE calls_total counter\n"
        'calls_total{tool="say \\"hi\\"\\n\\\\",outcome="ok"} 2\n'
        "calls_total 0.1\n"
    )


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**53).map(float),
)
def test_any_tool_name_and_number_round_trip(tool: str, value: float) -> None:
    calls = MetricFamily(name="x", kind="gauge", help="", samples=[MetricSample(value, (("tool", tool),))])
    assert parse_prometheus(format_prometheus([calls])) == {"gauge x": {("x", (("tool", tool),)): value}}


@pytest.fixture
def log_lines(errors_only_log: None) -> Iterator[list[EventDict]]:
    """Captures the log lines instead of printing them."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        yield lines


async def read_gauges() -> Gauges:
    await trio.lowlevel.checkpoint()
    return GAUGES


async def test_a_minute_with_activity_has_one_log_line(
    log_lines: list[EventDict], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    metrics = Metrics("1.2.3")
    nursery.start_soon(metrics.run_minute_log, read_gauges)
    for event in (*A_TURN, FAILED_TURN):
        metrics.on_event("walrus", event)
    await trio.sleep(61)
    gauges = {
        "running": 2,
        "sessions_live": 12,
        "connections": 3,
        "rss": 50_000_000,
        "fds": 24,
        "wal_bytes": 4_152_992,
    }
    line = {"event": "minute", "log_level": "info", **gauges}
    first = {**line, "turns": 2, "errors": 1, "tool_calls": 3, "rounds": 2, "tokens": 354, "cost_usd": None}
    assert log_lines == [first]
    metrics.on_event("walrus", PRICED_MESSAGE)
    await trio.sleep(61)
    second = {**line, "turns": 0, "errors": 0, "tool_calls": 0, "rounds": 1, "tokens": 177, "cost_usd": 0.25}
    assert log_lines == [first, second]


async def test_idle_minutes_have_no_log_line_and_no_wake_up(
    log_lines: list[EventDict], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    metrics = Metrics("1.2.3")
    nursery.start_soon(metrics.run_minute_log, read_gauges)
    metrics.on_request("daemon.metrics", None)  # reading metrics is not activity
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
    metrics.on_event("walrus", PRICED_MESSAGE)
    await trio.sleep(3600)
    assert len(log_lines) == 1
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")


async def test_activity_is_logged_even_if_the_gauges_cannot_be_read(
    log_lines: list[EventDict], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def broken() -> Gauges:
        await trio.lowlevel.checkpoint()
        raise OSError("too many open files")

    metrics = Metrics("1.2.3")
    nursery.start_soon(metrics.run_minute_log, broken)
    metrics.on_event("walrus", Done(stop_reason="no_action"))
    await trio.sleep(61)
    assert [line["event"] for line in log_lines] == ["gauges_unreadable", "minute"]
    assert log_lines[1]["turns"] == 1
