"""Tests of `bash` through the pipeline with real processes: output, exit and clean-up."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.dispatch.pipeline_harness import PipelineHarness
from tests.fakes.home import MAX_WAIT_S
from walrus_config import schema as config
from walrus_protocol.events import ProcessGroupId, ToolResult
from walrusd.dispatch.bounded_output import MAX_STORED_BYTES
from walrusd.dispatch.live_output import MAX_CHARS
from walrusd.host.orphan_cleanup import CALL_MARKER_VARIABLE, call_marker
from walrusd.host.spawner import Spawner
from walrusd.tools.bash import BashTool


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner(umask=0o027) as spawner:
        yield spawner


@pytest.fixture
def harness(tmp_path: Path, spawner: Spawner) -> PipelineHarness:
    return PipelineHarness(BashTool(), spawner=spawner, workspace=str(tmp_path), secrets=["sk-secret"])


async def wait_exited(pid: int) -> None:
    """Waits until the process has exited."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(MAX_WAIT_S):
            await trio.lowlevel.wait_readable(process)
    finally:
        os.close(process)


async def run_bash(harness: PipelineHarness, command: str, **more: object) -> ToolResult:
    with trio.fail_after(MAX_WAIT_S):
        return await harness.call("bash", {"command": command, **more})


async def test_a_command_is_run_and_its_process_is_recorded_at_the_start(
    tmp_path: Path, harness: PipelineHarness
) -> None:
    result = await run_bash(harness, "echo $$ in $PWD; echo and this >&2")
    [process] = harness.processes
    output = f"{process.pgid} in {tmp_path}\nand this\n"
    assert result == ToolResult(call_id="c1", name="bash", output=output, bytes=len(output))
    assert "".join(harness.outputs) == output
    assert harness.stored_outputs == {}


@pytest.mark.parametrize(
    ("command", "output", "size"),
    [
        ("echo no; exit 3", "no\n[exit status 3]", 3),
        ("false", "[exit status 1]", 0),
        ("printf half; kill -TERM $$", "half\n[killed by signal SIGTERM]", 4),
        ("kill -KILL $$", "[killed by signal SIGKILL]", 0),
        ("if", "bash: -c: line 2: syntax error: unexpected end of file\n[exit status 2]", 55),
    ],
)
async def test_the_result_of_a_failed_command_states_how_it_ended(
    harness: PipelineHarness, command: str, output: str, size: int
) -> None:
    assert await run_bash(harness, command) == ToolResult(
        call_id="c1", name="bash", output=output, is_error=True, outcome="error", gate="execute", bytes=size
    )


async def test_a_command_has_no_input_and_may_have_no_output(harness: PipelineHarness) -> None:
    assert await run_bash(harness, "cat") == ToolResult(call_id="c1", name="bash", output="[no output]")


async def test_bytes_that_are_not_text_are_replaced(harness: PipelineHarness) -> None:
    result = await run_bash(harness, r"printf 'a\xff\xc3\xa4\xc3'")
    assert (result.output, result.bytes) == ("a\ufffdä\ufffd", 9)


async def test_the_environment_of_a_command_has_no_keys(harness: PipelineHarness) -> None:
    lines = (await run_bash(harness, "umask; env -0 | tr '\\n\\0' ' \\n'")).output.splitlines()
    environ = dict(line.split("=", 1) for line in lines[1:])
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"}
    added = {"TERM": "dumb", "WALRUS_HOME": "/walrus", CALL_MARKER_VARIABLE: call_marker(1, 1, "c1")}
    from_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    unknown = environ.keys() - allowed - from_shell - added.keys()
    others = {name for name in unknown if not name.startswith(("LC_", "XDG_"))}
    assert lines[0] == "0027"
    assert others == set()
    assert {name: environ[name] for name in added} == added


async def test_a_command_that_cannot_be_started_is_an_error_and_records_no_start(
    tmp_path: Path, spawner: Spawner
) -> None:
    harness = PipelineHarness(BashTool(), spawner=spawner, workspace=str(tmp_path / "nowhere"))
    result = await run_bash(harness, "echo hi")
    assert (result.outcome, result.is_error, result.gate) == ("error", True, "execute")
    assert str(tmp_path / "nowhere") in result.output
    assert harness.starts == 0
    without_workspace = await run_bash(PipelineHarness(BashTool(), spawner=spawner, workspace=""), "echo hi")
    assert without_workspace.output == "You have no workspace, so there is no folder to run the command in."
    with_nul = await run_bash(PipelineHarness(BashTool(), spawner=spawner, workspace=str(tmp_path)), "echo \0 hi")
    assert "a shell cannot take it" in with_nul.output


async def test_a_command_does_not_run_before_its_start_is_durable(tmp_path: Path, spawner: Spawner) -> None:
    trace = tmp_path / "trace"

    class Full(Exception):
        pass

    class Failing(PipelineHarness):
        async def record_started(self, process: ProcessGroupId | None) -> None:
            await super().record_started(process)
            assert process is not None
            os.kill(process.pgid, 0)  # the process exists …
            await trio.sleep(0.1)
            assert not trace.exists()  # … and has not run the command
            raise Full

    harness = Failing(BashTool(), spawner=spawner, workspace=str(tmp_path))
    with pytest.raises(Full):
        await run_bash(harness, f"touch {trace}")
    await wait_exited(harness.processes[0].pgid)
    assert not trace.exists()


async def test_an_interrupt_while_the_start_is_recorded_keeps_the_command_from_running(
    tmp_path: Path, spawner: Spawner
) -> None:
    class Interrupting(PipelineHarness):
        async def record_started(self, process: ProcessGroupId | None) -> None:
            await super().record_started(process)
            scope.cancel()

    harness = Interrupting(BashTool(), spawner=spawner, workspace=str(tmp_path))
    with trio.CancelScope() as scope:
        await run_bash(harness, "touch trace")
    await wait_exited(harness.processes[0].pgid)
    assert not (tmp_path / "trace").exists()


async def test_an_interrupt_ends_the_command_and_its_children(harness: PipelineHarness) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_bash, harness, "(sleep 1000 & echo $!; wait) & echo $!; wait")
        pids = await harness.wait_output_lines(2)
        nursery.cancel_scope.cancel()
    for pid in (harness.processes[0].pgid, *map(int, pids)):
        await wait_exited(pid)


async def test_a_command_is_stopped_at_its_deadline_and_its_output_so_far_is_shown(harness: PipelineHarness) -> None:
    result = await run_bash(harness, "printf 'so far'; sleep 1000", timeout_s=0.3)
    note = "bash was stopped because it did not finish within 0.3 s. Its effects until then remain. Try a smaller step."
    assert result.output == f"so far\n[{note}]"
    assert (result.outcome, result.is_error, result.gate, result.bytes) == ("timeout", True, "execute", 6)
    await wait_exited(harness.processes[0].pgid)


async def test_a_call_cannot_get_more_time_than_the_tool_allows(tmp_path: Path, spawner: Spawner) -> None:
    settings = {"bash": config.ToolSettings(timeout_s=0.2)}
    harness = PipelineHarness(BashTool(), settings=settings, spawner=spawner, workspace=str(tmp_path))
    assert "within 0.2 s" in (await run_bash(harness, "sleep 1000", timeout_s=500)).output
    assert (await run_bash(harness, "true", timeout_s=0)).outcome == "invalid"


async def test_background_processes_of_a_command_end_with_it(harness: PipelineHarness) -> None:
    result = await run_bash(harness, "sleep 1000 & echo $!")
    assert result.outcome == "ok"
    await wait_exited(int(result.output))


@pytest.mark.parametrize("work", ["while echo again; do sleep 0.01; done", "exec sleep 1000", "exec yes"])
async def test_a_process_outside_the_group_that_holds_the_output_does_not_block_the_call(
    tmp_path: Path, harness: PipelineHarness, work: str
) -> None:
    result = await run_bash(harness, f"setsid -f sh -c 'echo $$ > pid; {work}'; while [ ! -s pid ]; do :; done")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert result.outcome == "ok"


async def test_known_secrets_are_redacted_in_live_and_final_output(harness: PipelineHarness) -> None:
    result = await run_bash(harness, "printf 'the key is sk-se'; sleep 0.2; printf 'cret.'; seq 20000")
    assert result.output.startswith("the key is ***.1\n2\n")
    expected = b"the key is ***." + b"".join(b"%d\n" % n for n in range(1, 20_001))
    assert harness.stored_outputs == {"ref0": expected}
    assert (result.truncated, result.bytes, result.ref) == (True, len(expected), "ref0")
    assert "sk-se" not in "".join(harness.outputs)


async def test_a_flood_of_output_is_counted_cut_and_slowed_down(spawner: Spawner) -> None:
    harness = PipelineHarness(BashTool(), spawner=spawner, workspace="/", clock=trio.current_time)
    result = await run_bash(harness, "yes", timeout_s=1)
    assert (result.outcome, result.truncated) == ("timeout", True)
    assert result.bytes > MAX_STORED_BYTES
    assert harness.stored_outputs == {"ref0": b"y\n" * (MAX_STORED_BYTES // 2)}
    assert len(result.output.encode()) <= 64 * 1024
    assert "the user can read its first 4,194,304 bytes as output ref0" in result.output
    assert len(harness.outputs) <= 2 + result.duration_ms / 100
    assert max(map(len, harness.outputs)) <= MAX_CHARS + 100
