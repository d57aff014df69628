"""The probe, as real processes: what it says, when that is something else than before, and how it is ended."""

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.home import PATIENCE_S
from walrusd.host.spawner import Spawner
from walrusd.redaction import Redaction
from walrusd.schedule.probe import DEADLINE_S, SAID, Probed, ProbeFailed, Probes


@pytest.fixture
async def probes() -> AsyncIterator[Probes]:
    async with Spawner(umask=0o022) as spawner:
        yield Probes(spawner, home="/home/walrus", redact=Redaction(["sk-secret"]))


async def ask(probes: Probes, command: str, folder: Path | str = "/") -> Probed:
    with trio.fail_after(PATIENCE_S):
        return await probes(command, str(folder))


async def ended(pid: int) -> None:
    """Wait until the process has ended, whoever reaps it."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        await trio.lowlevel.wait_readable(process)
        os.close(process)


async def test_a_probe_says_what_it_says_in_the_workspace_with_the_environment_of_a_tool(
    probes: Probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    probed = await ask(probes, 'pwd; echo "$WALRUS_HOME ${OPENAI_API_KEY:-no key}" >&2; exit 3', tmp_path)
    assert (probed.status, probed.said) == (3, f"{tmp_path}\n/home/walrus no key")


async def test_what_is_compared_is_the_command_its_status_and_all_that_it_says(probes: Probes) -> None:
    commands = ("echo a", "echo a", "echo b", "echo a; exit 1", "echo a ", "head -c 70000 /dev/zero; echo a")
    first, again, *others = [(await ask(probes, command)).digest for command in commands]
    assert first == again
    assert len({first, *others}) == 1 + len(others)


async def test_what_it_says_is_shown_up_to_a_number_and_without_secrets(probes: Probes) -> None:
    probed = await ask(probes, "echo sk-secret; yes | head -c 3000000")
    assert probed.said.startswith("***\ny\ny\n")
    assert probed.said.endswith(f"\n[The rest is left out: these are the first {SAID:,} characters.]")
    assert len(probed.said) < SAID + 100
    other = await ask(probes, "echo sk-secret; yes | head -c 3000000; echo n")
    assert (other.said, other.digest == probed.digest) == (probed.said, False)


async def test_one_that_says_nothing_is_said_to(probes: Probes) -> None:
    assert (await ask(probes, "exit 0")).said == "[nothing]"


async def test_what_it_leaves_in_the_background_ends_with_it(probes: Probes) -> None:
    await ended(int((await ask(probes, "sleep 1000 & echo $!")).said))


async def test_one_that_never_ends_is_killed_with_all_its_children(tmp_path: Path, mock_clock: MockClock) -> None:
    """On a clock that stands still until the probe hangs, and then is past the deadline at once."""
    os.mkfifo(tmp_path / "pids")

    async def once_it_hangs() -> None:
        pids.extend(map(int, (await trio.Path(tmp_path / "pids").read_text()).split()))
        mock_clock.jump(DEADLINE_S)

    pids: list[int] = []
    async with Spawner(umask=0o022) as spawner, trio.open_nursery() as nursery:
        nursery.start_soon(once_it_hangs)
        with pytest.raises(ProbeFailed, match="it had not ended after 60 s, and was killed"):
            await Probes(spawner, home="/", redact=Redaction())("sleep 1000 & echo $$ $! > pids; wait", str(tmp_path))
    assert len(pids) == 2
    for pid in pids:
        await ended(pid)


async def test_one_that_cannot_be_started_says_why(probes: Probes, tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="there"):
        await ask(probes, "true", tmp_path / "there is none")
