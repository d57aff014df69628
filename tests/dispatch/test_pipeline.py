"""What the pipeline answers to a call, whatever the call: a refusal or an outcome that a model can read."""

import http.server
import threading

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from tests.dispatch.pipeline_harness import FunctionTool, PipelineHarness, returning
from walrus_config import schema as config
from walrus_protocol.content import Outcome
from walrus_protocol.events import ToolResult
from walrusd.dispatch.pipeline import GATES
from walrusd.ports import ToolFailed, ToolRun

PATH_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 1}},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def refusal(name: str, outcome: Outcome, gate: str, text: str, rule: str | None = None) -> ToolResult:
    return ToolResult(
        call_id="c1",
        name=name,
        output=text,
        is_error=True,
        outcome=outcome,
        gate=gate,
        rule=rule,
        bytes=len(text.encode()),
    )


def test_the_gates_stand_in_the_order_of_the_design() -> None:
    assert [gate.__name__ for gate in GATES] == ["validate", "capabilities", "permissions"]


async def test_a_call_that_passes_is_executed_after_its_intent() -> None:
    async def work(run: ToolRun) -> str:
        assert counter.intents == 1
        await trio.lowlevel.checkpoint()
        return f"session {run.session}, {run.agent} in {run.workspace}: {run.arguments['path']}"

    counter = PipelineHarness(FunctionTool("find", work, PATH_SCHEMA))
    assert await counter.call("find", {"path": "a"}) == ToolResult(
        call_id="c1", name="find", output="session 1, walrus in /nowhere: a", bytes=32
    )


async def test_a_tool_that_does_not_exist_is_answered_with_the_nearest_that_the_agent_has() -> None:
    agents = {"walrus": config.AgentSettings(name="walrus", deny_tools=("reap",))}
    counter = PipelineHarness(*(FunctionTool(name, returning("")) for name in ("read", "reap", "write")), agents=agents)
    assert await counter.call("raed", {}) == refusal(
        "raed",
        "unknown_tool",
        "validate",
        "There is no tool named raed. Did you mean read? Your tools are: read, write.",
    )
    assert (await counter.call("zzz", {}, agent="of a library")).output == (
        "There is no tool named zzz. Your tools are: read, reap, write."
    )
    assert (
        await PipelineHarness().call("zzz", {})
    ).output == "There is no tool named zzz, and you have no other tools."
    assert counter.intents == 0


async def test_a_tool_that_is_not_enabled_is_not_there() -> None:
    counter = PipelineHarness(
        FunctionTool("read", returning("")), settings={"read": config.ToolSettings(enabled=False)}
    )
    assert counter.pipeline.schemas == ()
    assert (await counter.call("read", {})).outcome == "unknown_tool"


async def test_arguments_that_do_not_fit_are_refused_with_path_and_reason() -> None:
    counter = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    assert await counter.call("find", {"lines": [1, 0], "deep": True}) == refusal(
        "find",
        "invalid",
        "validate",
        "The arguments of find do not fit its schema:\n"
        "- $.lines[1]: 0 is less than the minimum of 1\n"
        '- $: "path" is a required property\n'
        "- $: Additional properties are not allowed ('deep' was unexpected)\n"
        "Mend them and call it again.",
    )
    assert counter.intents == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"path": "a', 'this came: {"path": "a'),
        ("[1]", "this came: [1]"),
        (" ", "nothing came"),
    ],
)
async def test_arguments_that_are_no_object_are_refused(arguments: str, told: str) -> None:
    counter = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    assert await counter.call("find", arguments) == refusal(
        "find", "invalid", "validate", f"The arguments of find must be one JSON object with path; {told}"
    )


async def test_a_refusal_quotes_no_whole_file() -> None:
    counter = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    result = await counter.call("find", {"path": "a", "lines": ["x" * 1_000_000] * 100})
    assert result.outcome == "invalid"
    assert result.bytes < 4_000


def test_a_schema_that_points_elsewhere_is_refused_and_never_fetched() -> None:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        remote = f"http://127.0.0.1:{server.server_port}/schema.json"
        with pytest.raises(ValueError, match="the schema of tool find cannot be used"):
            PipelineHarness(
                FunctionTool("find", returning(""), {"type": "object", "properties": {"a": {"$ref": remote}}})
            )
        server.shutdown()
        serving.join()
    assert asked == []


async def test_a_tool_outside_the_agents_scope_is_denied() -> None:
    agents = {
        "listed": config.AgentSettings(name="listed", tools=("write",)),
        "struck": config.AgentSettings(name="struck", deny_tools=("read",)),
        "older": config.AgentSettings(name="older"),
    }
    counter = PipelineHarness(FunctionTool("read", returning("")), agents=agents)
    text = (
        "read is not one of your tools; the user has not given it to you. "
        "Go on without it, or tell the user what you need it for."
    )
    for agent, rule in (
        ("listed", "agents.listed.tools"),
        ("struck", "agents.struck.deny_tools: read"),
        ("older", None),
        ("of a library", None),
    ):
        result = await counter.call("read", "no object", agent=agent, offered=False)
        assert result == refusal("read", "denied", "capabilities", text, rule)


async def test_a_scope_that_shrank_does_not_reach_an_agent_that_was_offered_the_tool() -> None:
    agents = {"walrus": config.AgentSettings(name="walrus", deny_tools=("read",))}
    assert (
        await PipelineHarness(FunctionTool("read", returning("text")), agents=agents).call("read", {})
    ).output == "text"


async def test_what_is_not_permitted_says_who_can_permit_it_and_how() -> None:
    counter = PipelineHarness(FunctionTool("read", returning("")), permissions=config.PermissionSettings())
    assert await counter.call("read", {}, agent="researcher") == refusal(
        "read",
        "denied",
        "permissions",
        "read is not permitted (permissions.default: deny). Only the user can permit it: who adds "
        '"read" to agents.researcher.permissions.allow in walrus.toml does. Do not try it again; go on without it, '
        "or tell the user what you need it for.",
        rule="permissions.default: deny",
    )
    assert counter.intents == 0


async def test_a_tool_that_fails_answers_with_its_own_error_text() -> None:
    async def work(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        raise ToolFailed("There is no such thing.")

    assert await PipelineHarness(FunctionTool("find", work)).call("find", {}) == refusal(
        "find", "error", "execute", "There is no such thing."
    )


async def test_a_bug_in_a_tool_is_logged_and_the_model_sees_no_traceback() -> None:
    async def work(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("the secret is 42")

    with structlog.testing.capture_logs() as logs:
        result = await PipelineHarness(FunctionTool("find", work)).call("find", {})
    assert result == refusal(
        "find",
        "error",
        "execute",
        "find failed: walrusd met a bug in it. Its effect is unknown. Try another way.",
    )
    [line] = logs
    assert isinstance(line.pop("exc_info"), ZeroDivisionError)
    assert line == {"event": "tool crashed", "log_level": "error", "tool": "find", "session": 1, "call": "c1"}


@pytest.mark.parametrize(("settings", "limit"), [({}, 60), ({"wait": config.ToolSettings(timeout_s=2.5)}, 2.5)])
async def test_a_tool_is_stopped_at_its_deadline(
    autojump_clock: MockClock, settings: dict[str, config.ToolSettings], limit: float
) -> None:
    async def work(run: ToolRun) -> str:
        await trio.sleep_forever()
        raise AssertionError

    result = await PipelineHarness(FunctionTool("wait", work), settings=settings, clock=trio.current_time).call(
        "wait", {}
    )
    text = (
        f"wait was stopped: it was not done within {limit:g} s. What it did by then is not undone. Try a smaller step."
    )
    assert result == ToolResult(
        call_id="c1",
        name="wait",
        output=text,
        is_error=True,
        outcome="timeout",
        gate="execute",
        bytes=len(text),
        duration_ms=round(limit * 1000),
    )


async def test_an_interrupt_goes_through_a_tool() -> None:
    async def work(run: ToolRun) -> str:
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    with trio.CancelScope() as scope:
        await PipelineHarness(FunctionTool("wait", work)).call("wait", {})
    assert scope.cancelled_caught


async def test_an_interrupt_while_the_intent_is_written_keeps_the_tool_from_starting() -> None:
    ran = []

    async def work(run: ToolRun) -> str:
        ran.append(run)
        await trio.lowlevel.checkpoint()
        return ""

    counter = PipelineHarness(FunctionTool("hurry", work))
    with trio.CancelScope() as scope:
        scope.cancel()
        await counter.call("hurry", {})
    assert (counter.intents, ran) == (1, [])


async def test_a_long_output_is_shown_without_its_middle_and_stored_whole() -> None:
    counter = PipelineHarness(FunctionTool("cat", returning("ä" * 40_000)))
    result = await counter.call("cat", {})
    head, _, tail = result.output.split("\n")
    whole = (
        f"{80_000 - 2 * len(head + tail):,} of 80,000 bytes are left out here; the user has the whole as output ref0"
    )
    assert result == ToolResult(
        call_id="c1",
        name="cat",
        output=f"{head}\n[{whole}]\n{tail}",
        truncated=True,
        bytes=80_000,
        ref="ref0",
    )
    assert set(head + tail) == {"ä"}
    assert 64 * 1024 - 4 <= len(result.output.encode()) <= 64 * 1024
    assert counter.stored_outputs == {"ref0": "ä".encode() * 40_000}


async def test_the_output_cap_of_walrus_toml_beats_the_tools() -> None:
    counter = PipelineHarness(
        FunctionTool("cat", returning("x" * 300)), settings={"cat": config.ToolSettings(max_output_bytes=256)}
    )
    result = await counter.call("cat", {})
    assert (result.truncated, result.bytes, len(result.output)) == (True, 300, 256)


async def test_known_secrets_are_redacted_in_shown_and_stored_output() -> None:
    counter = PipelineHarness(
        FunctionTool("cat", returning("the key is sk-secret" + "." * 70_000)), secrets=["sk-secret"]
    )
    result = await counter.call("cat", {})
    assert result.output.startswith("the key is ***....")
    assert counter.stored_outputs["ref0"] == b"the key is ***" + b"." * 70_000
    assert result.bytes == 70_014


async def test_an_output_that_cannot_be_stored_gives_no_result() -> None:
    class Full(Exception):
        pass

    class Forgetful(PipelineHarness):
        async def keep(self, body: bytes) -> str:
            raise Full

    with pytest.raises(Full):
        await Forgetful(FunctionTool("cat", returning("x" * 70_000))).call("cat", {})
