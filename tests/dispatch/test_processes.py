"""`bash` through the pipeline: real processes, what they say, how they end, and that nothing is left of them."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.dispatch.doubles import Counter
from tests.fakes.home import PATIENCE_S
from walrus_config import schema as config
from walrus_protocol.events import Process, ToolResult
from walrusd.dispatch.output import KEPT
from walrusd.dispatch.running import MOST
from walrusd.host.spawner import Spawner
from walrusd.host.survivors import MARK, mark_of
from walrusd.tools.bash import Bash


@pytest.fixture
async def spawner() -> AsyncIterator[Spawner]:
    async with Spawner(umask=0o027) as spawner:
        yield spawner


@pytest.fixture
def counter(tmp_path: Path, spawner: Spawner) -> Counter:
    return Counter(Bash(), spawner=spawner, workspace=str(tmp_path), secrets=["sk-secret"])


async def gone(pid: int) -> None:
    """Wait until the process has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.wait_readable(process)
    finally:
        os.close(process)


async def bash(counter: Counter, command: str, **more: object) -> ToolResult:
    with trio.fail_after(PATIENCE_S):
        return await counter.call("bash", {"command": command, **more})


async def test_a_command_is_run_and_its_process_is_in_the_intent(tmp_path: Path, counter: Counter) -> None:
    result = await bash(counter, "echo $$ in $PWD; echo and this >&2")
    [process] = counter.processes
    output = f"{process.pgid} in {tmp_path}\nand this\n"
    assert result == ToolResult(call_id="c1", name="bash", output=output, bytes=len(output))
    assert "".join(counter.said) == output
    assert counter.kept == {}


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
async def test_a_command_that_fails_says_how_it_ended(counter: Counter, command: str, output: str, size: int) -> None:
    assert await bash(counter, command) == ToolResult(
        call_id="c1", name="bash", output=output, is_error=True, outcome="error", gate="execute", bytes=size
    )


async def test_a_command_has_no_input_and_may_have_no_output(counter: Counter) -> None:
    assert await bash(counter, "cat") == ToolResult(call_id="c1", name="bash", output="[no output]")


async def test_what_is_no_text_is_shown_as_far_as_it_is(counter: Counter) -> None:
    result = await bash(counter, r"printf 'a\xff\xc3\xa4\xc3'")
    assert (result.output, result.bytes) == ("a\ufffdä\ufffd", 9)


async def test_a_command_knows_where_it_is_and_no_keys(counter: Counter) -> None:
    lines = (await bash(counter, "umask; env -0 | tr '\\n\\0' ' \\n'")).output.splitlines()
    environ = dict(line.split("=", 1) for line in lines[1:])
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"}
    ours = {"TERM": "dumb", "WALRUS_HOME": "/walrus", MARK: mark_of(1, 1, "c1")}
    its_own = {"PWD", "OLDPWD", "SHLVL", "_"}
    others = {name for name in environ.keys() - allowed - its_own - ours.keys() if not name.startswith(("LC_", "XDG_"))}
    assert lines[0] == "0027"
    assert others == set()
    assert {name: environ[name] for name in ours} == ours


async def test_a_command_that_cannot_be_started_is_a_result_and_has_no_intent(tmp_path: Path, spawner: Spawner) -> None:
    counter = Counter(Bash(), spawner=spawner, workspace=str(tmp_path / "nowhere"))
    result = await bash(counter, "echo hi")
    assert (result.outcome, result.is_error, result.gate) == ("error", True, "execute")
    assert str(tmp_path / "nowhere") in result.output
    assert counter.intents == 0
    homeless = await bash(Counter(Bash(), spawner=spawner, workspace=""), "echo hi")
    assert homeless.output == "You have no workspace, and so no folder to run it in."
    odd = await bash(Counter(Bash(), spawner=spawner, workspace=str(tmp_path)), "echo \0 hi")
    assert "no shell can be given that" in odd.output


async def test_nothing_is_run_before_its_intent_is_durable(tmp_path: Path, spawner: Spawner) -> None:
    trace = tmp_path / "trace"

    class Full(Exception):
        pass

    class Failing(Counter):
        async def started(self, process: Process | None) -> None:
            await super().started(process)
            assert process is not None
            os.kill(process.pgid, 0)  # it is there …
            await trio.sleep(0.1)
            assert not trace.exists()  # … and has done nothing
            raise Full

    counter = Failing(Bash(), spawner=spawner, workspace=str(tmp_path))
    with pytest.raises(Full):
        await bash(counter, f"touch {trace}")
    await gone(counter.processes[0].pgid)
    assert not trace.exists()


async def test_an_interrupt_while_the_intent_is_written_keeps_the_command_from_running(
    tmp_path: Path, spawner: Spawner
) -> None:
    class Interrupting(Counter):
        async def started(self, process: Process | None) -> None:
            await super().started(process)
            scope.cancel()

    counter = Interrupting(Bash(), spawner=spawner, workspace=str(tmp_path))
    with trio.CancelScope() as scope:
        await bash(counter, "touch trace")
    await gone(counter.processes[0].pgid)
    assert not (tmp_path / "trace").exists()


async def test_an_interrupt_ends_the_command_and_its_children(counter: Counter) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bash, counter, "(sleep 1000 & echo $!; wait) & echo $!; wait")
        pids = await counter.lines_said(2)
        nursery.cancel_scope.cancel()
    for pid in (counter.processes[0].pgid, *map(int, pids)):
        await gone(pid)


async def test_at_its_deadline_a_command_is_stopped_and_what_it_said_is_shown(counter: Counter) -> None:
    result = await bash(counter, "printf 'so far'; sleep 1000", timeout_s=0.3)
    note = "[bash was stopped: it was not done within 0.3 s. What it did by then is not undone. Try a smaller step.]"
    assert result.output == f"so far\n{note}"
    assert (result.outcome, result.is_error, result.gate, result.bytes) == ("timeout", True, "execute", 6)
    await gone(counter.processes[0].pgid)


async def test_a_call_may_not_ask_for_more_time_than_the_tool_has(tmp_path: Path, spawner: Spawner) -> None:
    settings = {"bash": config.Tool(timeout_s=0.2)}
    counter = Counter(Bash(), settings=settings, spawner=spawner, workspace=str(tmp_path))
    assert "within 0.2 s" in (await bash(counter, "sleep 1000", timeout_s=500)).output
    assert (await bash(counter, "true", timeout_s=0)).outcome == "invalid"


async def test_what_a_command_leaves_running_ends_with_it(counter: Counter) -> None:
    result = await bash(counter, "sleep 1000 & echo $!")
    assert result.outcome == "ok"
    await gone(int(result.output))


@pytest.mark.parametrize("work", ["while echo again; do sleep 0.01; done", "exec sleep 1000", "exec yes"])
async def test_one_that_left_the_group_and_holds_the_output_does_not_hold_the_call(
    tmp_path: Path, counter: Counter, work: str
) -> None:
    result = await bash(counter, f"setsid -f sh -c 'echo $$ > pid; {work}'; while [ ! -s pid ]; do :; done")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert result.outcome == "ok"


async def test_known_secrets_are_taken_out_wherever_they_are_said(counter: Counter) -> None:
    result = await bash(counter, "printf 'the key is sk-se'; sleep 0.2; printf 'cret.'; seq 20000")
    assert result.output.startswith("the key is ***.1\n2\n")
    whole = b"the key is ***." + b"".join(b"%d\n" % n for n in range(1, 20_001))
    assert counter.kept == {"ref0": whole}
    assert (result.truncated, result.bytes, result.ref) == (True, len(whole), "ref0")
    assert "sk-se" not in "".join(counter.said)


async def test_a_flood_is_counted_cut_and_held_back(spawner: Spawner) -> None:
    counter = Counter(Bash(), spawner=spawner, workspace="/", clock=trio.current_time)
    result = await bash(counter, "yes", timeout_s=1)
    assert (result.outcome, result.truncated) == ("timeout", True)
    assert result.bytes > KEPT
    assert counter.kept == {"ref0": b"y\n" * (KEPT // 2)}
    assert len(result.output.encode()) <= 64 * 1024
    assert "the user has the first 4,194,304 bytes as output ref0" in result.output
    assert len(counter.said) <= 2 + result.duration_ms / 100
    assert max(map(len, counter.said)) <= MOST + 100
