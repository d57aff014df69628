"""A process that adopts orphans, as walrusd does.

`python -m tests.fakes.reaper_script SCENARIO` prints a line of JSON.

It is one of its own because it reaps whatever ends, and is the parent of all it has started in the end.
"""

import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable

import structlog
import trio
from structlog.testing import capture_logs

from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.peer_credentials import set_undumpable
from walrusd.host.procfs import child_pids, descendants, read_proc
from walrusd.host.spawner import Spawner

DEFAULT_NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)
ORPHAN_SCRIPT = "setsid sh -c 'echo $$; exec sleep 1000 > /dev/null 2>&1' &"
"""It leaves the session, and says its number then."""


async def start_bash(spawner: Spawner, script: str, *, gated: bool = False, dies_with_us: bool = True) -> Child:
    return await spawner.spawn(
        ["bash", "-c", script],
        cwd=os.getcwd(),
        env=dict(os.environ),
        with_start_barrier=gated,
        dies_with_daemon=dies_with_us,
    )


async def read_output(child: Child) -> str:
    return b"".join([piece async for piece in child.output]).decode()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Nobody is told when something has been reaped: look again and again."""
    while True:
        if condition():
            return
        await trio.lowlevel.checkpoint()


async def flood(spawner: Spawner) -> object:
    """200 orphans that end, beside 100 children that end: the statuses that were told, and who was left unreaped.

    The last ten are asked for their status only when all has been reaped that there was to reap.
    """
    statuses: list[int] = []
    late = [await start_bash(spawner, f"exit {status}") for status in range(90, 100)]

    async def orphans() -> None:
        # Each is forked twice and leaves the session, so that closing the child ends none of them.
        async with await start_bash(spawner, "for i in $(seq 100); do (setsid sh -c 'exit 9' &); done") as child:
            await child.wait()
            await read_output(child)  # to its end: the orphans hold the pipe as long as they run

    async def short(status: int) -> None:
        async with await start_bash(spawner, f"exit {status}") as child:
            statuses.append(await child.wait())

    async with trio.open_nursery() as nursery:
        for status in range(90):
            if status in {30, 60}:
                nursery.start_soon(orphans)
            nursery.start_soon(short, status)
    await wait_until(lambda: len(child_pids(os.getpid())) == len(late))
    for child in late:
        statuses.append(await child.wait())
        await child.aclose()
    return {"statuses": sorted(statuses), "left": child_pids(os.getpid()), "running": spawner.unreaped_count}


async def left_behind(spawner: Spawner) -> object:
    """A stray that is told of and left alone."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        stray = int(await read_output(child))
    seen = read_proc(stray)
    return {"stray": stray, "parent": seen and seen.ppid, "ours": os.getpid()}


async def killed(spawner: Spawner) -> object:
    """A stray that kill_all ends, and that is reaped then."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        stray = int(await read_output(child))
    spawner.kill_all()
    await wait_until(lambda: read_proc(stray) is None)
    return {"left": child_pids(os.getpid())}


async def stranger(spawner: Spawner) -> object:
    """What was a child of this process before it could adopt anybody, with a child of its own; and a stray of ours."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        stray = int(await read_output(child))
    return {"stray": stray, "strangers": [seen.pid for seen in descendants(os.getpid()) if seen.pid != stray]}


async def killed_beside_a_stranger(spawner: Spawner) -> object:
    told = await stranger(spawner)
    spawner.kill_all()
    return told


async def mortal(spawner: Spawner) -> object:
    """Children that the test sees after our end: behind the gate, about to die with us, and about to stay."""
    gated = [await start_bash(spawner, "echo done > it", gated=True, dies_with_us=dies) for dies in (True, False)]
    dying = await start_bash(spawner, "exec sleep 1000")
    staying = await start_bash(spawner, "exec sleep 1000", dies_with_us=False)
    print(json.dumps([child.pid for child in (*gated, dying, staying)]), flush=True)  # noqa: T201 - what the test reads
    await trio.sleep_forever()


async def no_files(spawner: Spawner) -> object:
    """As many descriptors as there are, from the first child on."""
    limit_open_files()
    try:
        return await spawn_failure(spawner)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, DEFAULT_NOFILE)


def limit_open_files() -> None:
    """Those that are open stay so."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, DEFAULT_NOFILE[1]))


async def no_files_to_look_with(spawner: Spawner) -> object:
    """One child is closed when there is no descriptor to look at it with, and another is left to be."""
    children = [await start_bash(spawner, "exec sleep 1000") for _ in range(2)]
    limit_open_files()
    await children[0].aclose()
    spawner.kill_all()
    return spawner.unreaped_count


async def no_forks(spawner: Spawner) -> object:
    """As many processes as there may be; root knows no such limit."""
    await (await start_bash(spawner, "exit 0")).aclose()
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return await spawn_failure(spawner)


async def spawn_failure(spawner: Spawner) -> list[str]:
    try:
        await start_bash(spawner, "exit 0")
    except SpawnFailed as failed:
        return [str(failed), failed.hint]
    return []


SCENARIOS: tuple[Callable[[Spawner], Awaitable[object]], ...] = (
    *(flood, left_behind, killed, mortal),
    *(stranger, killed_beside_a_stranger),
    *(no_files, no_files_to_look_with, no_forks),
)


async def main(name: str) -> None:
    [scenario] = [scenario for scenario in SCENARIOS if getattr(scenario, "__name__", "") == name]
    set_undumpable()
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with Spawner(0o022) as spawner, trio.open_nursery() as nursery:
            await nursery.start(spawner.adopt_and_reap)
            told = await scenario(spawner)
            nursery.cancel_scope.cancel()
    resource.setrlimit(resource.RLIMIT_NOFILE, DEFAULT_NOFILE)
    print(json.dumps([told, logs, child_pids(os.getpid())]))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
