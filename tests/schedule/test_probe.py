"""Tests of probes as real processes: their output, their digest and how they are killed."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.home import MAX_WAIT_S
from walrusd.host.spawner import Spawner
from walrusd.observability.redaction import Redaction
from walrusd.schedule.probe import DEADLINE_S, MAX_PROBE_OUTPUT, ProbeFailed, ProbeResult, run_probe


async def probe(command: str, folder: Path | str = "/") -> ProbeResult:
    async with Spawner(umask=0o022) as spawner:
        with trio.fail_after(MAX_WAIT_S):
            return await run_probe(spawner, "/home/walrus", Redaction(["sk-secret"]), command, str(folder))


async def wait_exited(pid: int) -> None:
    """Waits until the process has exited, whichever process reaps it."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)


async def test_a_probe_runs_in_the_workspace_with_the_environment_of_a_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    result = await probe('pwd; echo "$WALRUS_HOME ${OPENAI_API_KEY:-no key}" >&2; exit 3', tmp_path)
    assert (result.exit_status, result.output) == (3, f"{tmp_path}\n/home/walrus no key")


async def test_the_digest_covers_the_command_its_status_and_all_its_output() -> None:
    commands = ("echo a", "echo a", "echo b", "echo a; exit 1", "echo a ", "head -c 70000 /dev/zero; echo a")
    first, again, *others = [(await probe(command)).digest for command in commands]
    assert first == again
    assert len({first, *others}) == 1 + len(others)


async def test_the_output_is_shown_up_to_a_limit_and_without_secrets() -> None:
    result = await probe("echo sk-secret; yes | head -c 3000000")
    assert result.output.startswith("***\ny\ny\n")
    assert result.output.endswith(f"\n[Truncated: these are the first {MAX_PROBE_OUTPUT:,} characters.]")
    assert len(result.output) < MAX_PROBE_OUTPUT + 100
    other = await probe("echo sk-secret; yes | head -c 3000000; echo n")
    assert (other.output, other.digest == result.digest) == (result.output, False)


async def test_a_probe_without_output_is_described_as_such() -> None:
    assert (await probe("exit 0")).output == "[no output]"


async def test_background_processes_of_a_probe_are_killed_with_it() -> None:
    await wait_exited(int((await probe("sleep 1000 & echo $!")).output))


async def test_a_probe_that_never_ends_is_killed_with_all_its_children(tmp_path: Path, mock_clock: MockClock) -> None:
    """The clock stands still until the probe hangs, then jumps to the deadline."""
    os.mkfifo(tmp_path / "pids")

    async def jump_when_it_hangs() -> None:
        pids.extend(map(int, (await trio.Path(tmp_path / "pids").read_text()).split()))
        mock_clock.jump(DEADLINE_S)

    pids: list[int] = []
    async with Spawner(umask=0o022) as spawner, trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_it_hangs)
        with pytest.raises(ProbeFailed, match="it did not finish within 60 s and was killed"):
            await run_probe(spawner, "/", Redaction(), "sleep 1000 & echo $$ $! > pids; wait", str(tmp_path))
    assert len(pids) == 2
    for pid in pids:
        await wait_exited(pid)


async def test_a_probe_that_cannot_be_started_fails_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="there"):
        await probe("true", tmp_path / "there is none")
