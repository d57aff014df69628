"""Tests of the tool pipeline: every call ends in a refusal or an outcome with a text for the model."""

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


def test_the_gates_run_in_the_order_of_the_design() -> None:
    assert [gate.__name__ for gate in GATES] == ["validate", "capabilities", "permissions"]


async def test_a_call_that_passes_is_executed_after_its_start_is_recorded() -> None:
    async def work(run: ToolRun) -> str:
        assert harness.starts == 1
        await trio.lowlevel.checkpoint()
        return f"session {run.session}, {run.agent} in {run.workspace}: {run.arguments['path']}"

    harness = PipelineHarness(FunctionTool("find", work, PATH_SCHEMA))
    assert await harness.call("find", {"path": "a"}) == ToolResult(
        call_id="c1", name="find", output="session 1, walrus in /nowhere: a", bytes=32
    )


async def test_the_refusal_of_an_unknown_tool_suggests_the_nearest_of_the_agents_tools() -> None:
    agents = {"walrus": config.AgentSettings(name="walrus", deny_tools=("reap",))}
    harness = PipelineHarness(*(FunctionTool(name, returning("")) for name in ("read", "reap", "write")), agents=agents)
    assert await harness.call("raed", {}) == refusal(
        "raed",
        "unknown_tool",
        "validate",
        "There is no tool named raed. Did you mean read? Your tools are: read, write.",
    )
    assert (await harness.call("zzz", {}, agent="of a library")).output == (
        "There is no tool named zzz. Your tools are: read, reap, write."
    )
    assert (
        await PipelineHarness().call("zzz", {})
    ).output == "There is no tool named zzz, and you have no other tools."
    assert harness.starts == 0


async def test_a_disabled_tool_is_unknown() -> None:
    harness = PipelineHarness(
        FunctionTool("read", returning("")), settings={"read": config.ToolSettings(enabled=False)}
    )
    assert harness.pipeline.schemas == ()
    assert (await harness.call("read", {})).outcome == "unknown_tool"


async def test_arguments_that_do_not_match_the_schema_are_refused_with_path_and_reason() -> None:
    harness = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    assert await harness.call("find", {"lines": [1, 0], "deep": True}) == refusal(
        "find",
        "invalid",
        "validate",
        "The arguments of find do not match its schema:\n"
        "- $.lines[1]: 0 is less than the minimum of 1\n"
        '- $: "path" is a required property\n'
        "- $: Additional properties are not allowed ('deep' was unexpected)\n"
        "Correct them and call it again.",
    )
    assert harness.starts == 0


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ('{"path": "a', 'received: {"path": "a'),
        ("[1]", "received: [1]"),
        (" ", "received nothing"),
    ],
)
async def test_arguments_that_are_not_an_object_are_refused(arguments: str, received: str) -> None:
    harness = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    assert await harness.call("find", arguments) == refusal(
        "find", "invalid", "validate", f"The arguments of find must be one JSON object with path; {received}"
    )


async def test_a_refusal_truncates_the_values_that_it_quotes() -> None:
    harness = PipelineHarness(FunctionTool("find", returning(""), PATH_SCHEMA))
    result = await harness.call("find", {"path": "a", "lines": ["x" * 1_000_000] * 100})
    assert result.outcome == "invalid"
    assert result.bytes < 4_000


def test_a_schema_with_a_remote_ref_is_refused_and_never_fetched() -> None:
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server_thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        server_thread.start()
        remote = f"http://127.0.0.1:{server.server_port}/schema.json"
        with pytest.raises(ValueError, match="the schema of tool find cannot be used"):
            PipelineHarness(
                FunctionTool("find", returning(""), {"type": "object", "properties": {"a": {"$ref": remote}}})
            )
        server.shutdown()
        server_thread.join()
    assert requested == []


async def test_a_tool_outside_the_agents_scope_is_denied() -> None:
    agents = {
        "listed": config.AgentSettings(name="listed", tools=("write",)),
        "denied": config.AgentSettings(name="denied", deny_tools=("read",)),
        "unrestricted": config.AgentSettings(name="unrestricted"),
    }
    harness = PipelineHarness(FunctionTool("read", returning("")), agents=agents)
    text = (
        "read is not one of your tools: the user has not enabled it for you. "
        "Continue without it, or tell the user what you need it for."
    )
    for agent, rule in (
        ("listed", "agents.listed.tools"),
        ("denied", "agents.denied.deny_tools: read"),
        ("unrestricted", None),
        ("of a library", None),
    ):
        result = await harness.call("read", "no object", agent=agent, offered=False)
        assert result == refusal("read", "denied", "capabilities", text, rule)


async def test_an_agent_that_was_offered_a_tool_keeps_it_when_its_scope_shrinks() -> None:
    agents = {"walrus": config.AgentSettings(name="walrus", deny_tools=("read",))}
    assert (
        await PipelineHarness(FunctionTool("read", returning("text")), agents=agents).call("read", {})
    ).output == "text"


async def test_the_refusal_of_a_tool_that_is_not_permitted_names_the_key_to_change() -> None:
    harness = PipelineHarness(FunctionTool("read", returning("")), permissions=config.PermissionSettings())
    assert await harness.call("read", {}, agent="researcher") == refusal(
        "read",
        "denied",
        "permissions",
        "read is not permitted (permissions.default: deny). Only the user can permit it, by adding "
        '"read" to agents.researcher.permissions.allow in walrus.toml. Do not call it again. Continue without it, '
        "or tell the user what you need it for.",
        rule="permissions.default: deny",
    )
    assert harness.starts == 0


async def test_a_failed_call_has_the_error_text_of_the_tool() -> None:
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
        "find failed because of a bug in it. Its effect is unknown. Try another way.",
    )
    [line] = logs
    assert isinstance(line.pop("exc_info"), ZeroDivisionError)
    assert line == {"event": "tool_crashed", "log_level": "error", "tool": "find", "session": 1, "call": "c1"}


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
        f"wait was stopped because it did not finish within {limit:g} s. Its effects until then remain. "
        "Try a smaller step."
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


async def test_an_interrupt_cancels_a_running_tool() -> None:
    async def work(run: ToolRun) -> str:
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    with trio.CancelScope() as scope:
        await PipelineHarness(FunctionTool("wait", work)).call("wait", {})
    assert scope.cancelled_caught


async def test_an_interrupt_while_the_start_is_recorded_keeps_the_tool_from_running() -> None:
    ran = []

    async def work(run: ToolRun) -> str:
        ran.append(run)
        await trio.lowlevel.checkpoint()
        return ""

    harness = PipelineHarness(FunctionTool("hurry", work))
    with trio.CancelScope() as scope:
        scope.cancel()
        await harness.call("hurry", {})
    assert (harness.starts, ran) == (1, [])


async def test_a_long_output_is_shown_without_its_middle_and_stored_whole() -> None:
    harness = PipelineHarness(FunctionTool("cat", returning("ä" * 40_000)))
    result = await harness.call("cat", {})
    head, _, tail = result.output.split("\n")
    omission = (
        f"{80_000 - 2 * len(head + tail):,} of 80,000 bytes are omitted here; "
        "the user can read the whole output as output ref0"
    )
    assert result == ToolResult(
        call_id="c1",
        name="cat",
        output=f"{head}\n[{omission}]\n{tail}",
        truncated=True,
        bytes=80_000,
        ref="ref0",
    )
    assert set(head + tail) == {"ä"}
    assert 64 * 1024 - 4 <= len(result.output.encode()) <= 64 * 1024
    assert harness.stored_outputs == {"ref0": "ä".encode() * 40_000}


async def test_the_output_cap_of_walrus_toml_overrides_the_tools_own() -> None:
    harness = PipelineHarness(
        FunctionTool("cat", returning("x" * 300)), settings={"cat": config.ToolSettings(max_output_bytes=256)}
    )
    result = await harness.call("cat", {})
    assert (result.truncated, result.bytes, len(result.output)) == (True, 300, 256)


async def test_known_secrets_are_redacted_in_shown_and_stored_output() -> None:
    harness = PipelineHarness(
        FunctionTool("cat", returning("the key is sk-secret" + "." * 70_000)), secrets=["sk-secret"]
    )
    result = await harness.call("cat", {})
    assert result.output.startswith("the key is ***....")
    assert harness.stored_outputs["ref0"] == b"the key is ***" + b"." * 70_000
    assert result.bytes == 70_014


async def test_an_output_that_cannot_be_stored_gives_no_result() -> None:
    class Full(Exception):
        pass

    class FullStorage(PipelineHarness):
        async def store_output(self, body: bytes) -> str:
            raise Full

    with pytest.raises(Full):
        await FullStorage(FunctionTool("cat", returning("x" * 70_000))).call("cat", {})
