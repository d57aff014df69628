"""Tests of the tool `bash` in a real walrusd.

They cover its permissions and output, and that no command outlives its call.
"""

import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.fakes.home import MAX_WAIT_S, WALRUSCTL, Home, WalrusdProcess
from tests.fakes.provider import FakeProvider, ReceivedRequest, calls_tools, open_provider, replies
from tests.fakes.validators import openai_violations
from walrus_protocol.async_client import AsyncClient, connect
from walrus_protocol.client import RequestFailed, Unreachable
from walrus_protocol.events import AnyEvent, Done, NewerEvent, RunningOutput, ToolResult, ToolStarted
from walrus_protocol.methods import (
    AttachParams,
    CloseParams,
    CreateParams,
    OutputParams,
    SendParams,
    SessionParams,
    WaitParams,
)
from walrusd.session.recovery import EFFECT_UNKNOWN, NOT_RUN

TOML = """
[daemon]
shutdown_grace_s = 0.1
[defaults]
model = "fake"
[providers.fake]
kind = "openai"
base_url = "{url}"
api_key = "sk-secret-of-the-home"
models = ["fake"]
[permissions]
allow = ["bash"]
[tools.bash]
sandbox = "none"
"""
TurnEvents = list[AnyEvent | NewerEvent]


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with open_provider() as fake:
        yield fake


@pytest.fixture
def home(tmp_path: Path, provider: FakeProvider) -> Home:
    home = Home(tmp_path / "home", TOML.format(url=provider.url))
    (home.path / "workspace").mkdir()
    return home


@pytest.fixture
async def daemon(home: Home) -> AsyncIterator[WalrusdProcess]:
    with home.walrusd(environ={"OPENAI_API_KEY": "sk-of-another"}) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: WalrusdProcess) -> AsyncIterator[AsyncClient]:
    async with connect(daemon.socket) as client:
        yield client


def bash(command: str, **more: object) -> tuple[str, dict[str, object]]:
    return "bash", {"command": command, **more}


async def run_turn(client: AsyncClient, session: int, timeout_s: float | None = None) -> TurnEvents:
    """Runs a turn; returns its events, including live events."""
    with trio.fail_after(MAX_WAIT_S):
        async with client.stream(SendParams(session=session, content="go", timeout_s=timeout_s)) as events:
            return [event async for event in events]


async def create_session(client: AsyncClient) -> int:
    return (await client.create(CreateParams(agent="walrus"))).session


def results(events: TurnEvents) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


async def wait_exited(pid: int) -> None:
    """Waits until the process has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with trio.fail_after(MAX_WAIT_S):
        try:
            await trio.lowlevel.wait_readable(process)
        finally:
            os.close(process)


async def wait_output_lines(client: AsyncClient, session: int, count: int) -> list[str]:
    """Waits until the command of a session has printed `count` lines; returns all lines so far."""
    output = ""
    with trio.fail_after(MAX_WAIT_S):
        async with client.attach(AttachParams(session=session)) as events:
            async for event in events:
                if isinstance(event, RunningOutput):
                    output += event.text
                if len(lines := output.splitlines()) >= count:
                    return lines
    raise AssertionError(f"the session ended after the output {output!r}")


async def test_output_is_streamed_while_a_command_runs_and_complete_in_its_result(
    home: Home, client: AsyncClient, provider: FakeProvider
) -> None:
    provider.enqueue(calls_tools(bash("pwd; echo $$ >&2; env | grep -c sk-of-another")), replies("done"))
    events = await run_turn(client, await create_session(client))
    [started] = [event for event in events if isinstance(event, ToolStarted)]
    [result] = results(events)
    assert started.process is not None
    expected = f"{home.path}/workspace\n{started.process.pgid}\n0\n"
    assert (result.output, result.outcome, result.bytes) == (f"{expected}[exit status 1]", "error", len(expected))
    assert "".join(event.text for event in events if isinstance(event, RunningOutput)) == expected
    assert provider.requests[1].last_content == result.output
    assert isinstance(events[-1], Done)


async def test_running_without_a_sandbox_is_reported_in_status_check_and_log(
    home: Home, daemon: WalrusdProcess, client: AsyncClient
) -> None:
    for warnings in ((await client.status()).warnings, (await client.check_config()).warnings):
        assert any("bash runs without a sandbox and can do whatever you can do" in warning for warning in warnings)
    assert any("without a sandbox" in str(line["message"]) for line in daemon.lines_of("status_warning"))
    assert "without a sandbox" in home.walrusctl("status").stderr


async def test_bash_is_offered_only_if_the_config_says_that_it_has_no_sandbox(
    tmp_path: Path, provider: FakeProvider
) -> None:
    home = Home(tmp_path / "other", TOML.format(url=provider.url).replace('sandbox = "none"', ""))
    provider.enqueue(calls_tools(bash("touch trace")), replies("no"))
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            [result] = results(await run_turn(client, await create_session(client)))
            assert any("bash is not offered" in warning for warning in (await client.status()).warnings)
    assert (result.outcome, result.gate) == ("unknown_tool", "validate")
    assert [tool["function"]["name"] for tool in provider.requests[0].body["tools"]] == ["read"]


async def test_a_long_output_is_stored_completely_and_without_secrets(
    home: Home, client: AsyncClient, provider: FakeProvider
) -> None:
    provider.enqueue(
        calls_tools(bash("cat $WALRUS_HOME/walrus.toml | grep api_key; seq 100000; echo ä")), replies("long")
    )
    session = await create_session(client)
    [result] = results(await run_turn(client, session))
    whole = 'api_key = "***"\n' + "".join(f"{n}\n" for n in range(1, 100_001)) + "ä\n"
    assert (result.truncated, result.bytes) == (True, len(whole.encode()))
    assert len(result.output.encode()) <= 64 * 1024
    assert result.ref is not None
    assert f"the user can read the whole output as output {result.ref}]" in result.output
    assert "sk-secret" not in str(provider.requests[1].body)
    stored, offset = "", 0
    while True:
        page = await client.output(OutputParams(session=session, ref=result.ref, offset=offset))
        stored += page.text
        if page.next is None:
            break
        offset = page.next
    assert stored == whole
    assert home.walrusctl("tool", "output", str(session), result.ref).stdout == whole


async def test_a_missing_output_is_not_found(client: AsyncClient) -> None:
    session = await create_session(client)
    with pytest.raises(RequestFailed, match=f"session {session} has no output '0a1b'") as refused:
        await client.output(OutputParams(session=session, ref="0a1b"))
    assert refused.value.kind == "tool_not_found"
    with pytest.raises(RequestFailed) as refused:
        await client.output(OutputParams(session=99, ref="0a1b"))
    assert refused.value.kind == "session_not_found"


@pytest.mark.parametrize("detach", ["{}", "setsid -f {}", "nohup {} &", "( ( {} & ) & )"])
async def test_a_command_cannot_control_the_daemon_however_it_detaches(
    home: Home, client: AsyncClient, provider: FakeProvider, detach: str
) -> None:
    """Each command tries to close its own session; the call waits until the attempt is over."""
    session = await create_session(client)
    close = shlex.join([sys.executable, "-c", WALRUSCTL, "session", "close", str(session), "--force", "--json"])
    path = home.environ()["PYTHONPATH"]
    attempt = f"sh -c {shlex.quote(f'PYTHONPATH={path} {close} >answer 2>&1; echo $? >status')}"
    provider.enqueue(
        calls_tools(bash(f"{detach.format(attempt)}\nwhile [ ! -s status ]; do sleep 0.01; done; cat answer status")),
        replies("ok"),
    )
    events = await run_turn(client, session)
    [result] = results(events)
    assert '"kind": "from_tool"' in result.output
    assert result.output.endswith("\n5\n")
    assert (await client.session(SessionParams(session=session))).state == "idle"


async def interrupt(client: AsyncClient, session: int, daemon: WalrusdProcess) -> None:
    await client.interrupt(SessionParams(session=session))


async def close_session(client: AsyncClient, session: int, daemon: WalrusdProcess) -> None:
    await client.close(CloseParams(session=session, force=True))


async def send_with_interrupt(client: AsyncClient, session: int, daemon: WalrusdProcess) -> None:
    await client.send(SendParams(session=session, content="rather this", when_busy="interrupt"))


async def stop_daemon(client: AsyncClient, session: int, daemon: WalrusdProcess) -> None:
    assert await trio.to_thread.run_sync(daemon.terminate) == 0


async def wait_idle(client: AsyncClient, session: int, daemon: WalrusdProcess) -> None:
    await client.wait(WaitParams(session=session, states=("idle",)))


@pytest.mark.parametrize(
    ("end", "timeout_s"),
    [(interrupt, None), (send_with_interrupt, None), (close_session, None), (stop_daemon, None), (wait_idle, 2.0)],
)
async def test_whatever_ends_a_turn_ends_its_command_and_all_child_processes(
    daemon: WalrusdProcess,
    client: AsyncClient,
    provider: FakeProvider,
    end: Callable[[AsyncClient, int, WalrusdProcess], Awaitable[None]],
    timeout_s: float | None,
) -> None:
    provider.enqueue(calls_tools(bash("echo $$; (sleep 1000 & echo $!; wait) & wait")), replies("I see."))
    session = await create_session(client)
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(RequestFailed):  # if the daemon is stopped
                await client.send(SendParams(session=session, content="go", timeout_s=timeout_s))

        nursery.start_soon(send)
        pids = await wait_output_lines(client, session, 2)
        await end(client, session, daemon)
    for pid in map(int, pids):
        await wait_exited(pid)


async def test_an_interrupt_kills_a_command_that_ignores_sigterm_and_skips_later_calls(
    home: Home, client: AsyncClient, provider: FakeProvider
) -> None:
    stubborn = "trap '' TERM INT HUP; echo $$; (trap '' TERM; (sleep 1000 & echo $!; wait) & wait) & wait"
    provider.enqueue(
        calls_tools(bash("echo one"), bash(stubborn), bash("touch trace"), bash("touch trace")), replies("I see.")
    )
    session = await create_session(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=session, content="go"))
        _, *pids = await wait_output_lines(client, session, 3)
        assert (await client.interrupt(SessionParams(session=session))).interrupted
    for pid in map(int, pids):
        await wait_exited(pid)
    async with client.attach(AttachParams(session=session, follow=False)) as events:
        recorded = [event async for event in events]
    answers = [(result.outcome, result.output) for result in results(recorded)]
    assert answers == [("ok", "one\n"), ("interrupted", EFFECT_UNKNOWN), *[("interrupted", NOT_RUN)] * 2]
    assert [event.stop_reason for event in recorded if isinstance(event, Done)] == ["interrupted"]
    assert not (home.path / "workspace" / "trace").exists()
    assert (await client.send(SendParams(session=session, content="well?"))).text == "I see."
    assert openai_violations(provider.requests[-1].messages) == []


async def test_a_second_sigterm_kills_a_running_command_and_its_children(home: Home, provider: FakeProvider) -> None:
    home.write("walrus.toml", home.toml.read_text().replace("grace_s = 0.1", "grace_s = 600"))
    provider.enqueue(calls_tools(bash("echo $$; (setsid sleep 1000 & echo $!; wait) & wait")))
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client, trio.open_nursery() as nursery:
            session = await create_session(client)

            async def send() -> None:
                with suppress(Unreachable):  # the daemon closes the connection
                    await client.send(SendParams(session=session, content="go"))

            nursery.start_soon(send)
            pids = await wait_output_lines(client, session, 2)
            for _ in range(2):
                daemon.signal(signal.SIGTERM)
                await daemon.wait_for_async(lambda daemon: bool(daemon.lines_of("stopping")))
            assert await trio.to_thread.run_sync(daemon.wait_exit) == 130
    for pid in map(int, pids):
        await wait_exited(pid)


async def test_a_command_interrupted_by_a_crash_is_killed_and_not_run_again(home: Home, provider: FakeProvider) -> None:
    trace = home.path / "workspace" / "trace"

    def answer(request: ReceivedRequest) -> Callable[..., Awaitable[None]]:
        if request.messages[-1]["role"] == "user" and len(request.messages) <= 2:
            return calls_tools(bash("echo ran >> trace; echo $$; (sleep 1000; echo again >> trace) & echo $!; wait"))
        return replies("I see.")

    provider.choose = answer
    with home.walrusd() as daemon:
        async with connect(daemon.socket) as client:
            session = await create_session(client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_expecting_hangup, client, session)
                pids = [int(line) for line in await wait_output_lines(client, session, 2)]
                await trio.to_thread.run_sync(daemon.kill)
    os.kill(pids[1], 0)  # it survived the daemon
    with home.walrusd() as daemon:
        for pid in pids:
            await wait_exited(pid)
        async with connect(daemon.socket) as client:
            await client.wait(WaitParams(session=session, states=("idle",)))
            async with client.attach(AttachParams(session=session, follow=False)) as events:
                recorded = [event async for event in events]
            [result] = results(recorded)
            assert (result.outcome, result.output) == ("interrupted", EFFECT_UNKNOWN)
            assert (await client.send(SendParams(session=session, content="well?"))).text == "I see."
    assert trace.read_text() == "ran\n"


async def _send_expecting_hangup(client: AsyncClient, session: int) -> None:
    with pytest.raises(Exception, match="hung up"):
        await client.send(SendParams(session=session, content="go"))


async def test_other_sessions_continue_during_an_output_flood(client: AsyncClient, provider: FakeProvider) -> None:
    flooding, other = await create_session(client), await create_session(client)

    def answer(request: ReceivedRequest) -> Callable[..., Awaitable[None]]:
        return calls_tools(bash("yes")) if request.last_content == "flood" else replies("fine")

    provider.choose = answer
    before = (await client.status()).rss_bytes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, SendParams(session=flooding, content="flood"))
        await wait_output_lines(client, flooding, 10_000)
        for _ in range(50):
            assert (await client.send(SendParams(session=other, content="hi"))).text == "fine"
        await wait_output_lines(client, flooding, 100_000)
        assert (await client.session(SessionParams(session=flooding))).state == "executing_tool"
        assert (await client.status()).rss_bytes < before + 50_000_000
        await client.interrupt(SessionParams(session=flooding))


async def test_a_command_has_the_users_umask_and_ends_by_its_own_signals(
    client: AsyncClient, provider: FakeProvider
) -> None:
    provider.enqueue(calls_tools(bash("umask; kill -TERM $$")), replies("ok"))
    [result] = results(await run_turn(client, await create_session(client)))
    umask = os.umask(0)
    os.umask(umask)
    assert result.output == f"{umask:04o}\n[killed by signal {signal.Signals.SIGTERM.name}]"
