"""A process that adopts orphans, as walrusd does: `python -m tests.fakes.adopting SCENARIO`. Prints a line of JSON.

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
from walrusd.host.process import undumpable
from walrusd.host.procfs import children, descendants, look
from walrusd.host.spawner import Spawner

USUAL = resource.getrlimit(resource.RLIMIT_NOFILE)
STRAY = "setsid sh -c 'echo $$; exec sleep 1000 > /dev/null 2>&1' &"
"""It leaves the session, and says its number then."""


async def bash(spawner: Spawner, script: str, *, gated: bool = False, dies_with_us: bool = True) -> Child:
    return await spawner.spawn(
        ["bash", "-c", script], cwd=os.getcwd(), env=dict(os.environ), gated=gated, dies_with_us=dies_with_us
    )


async def said(child: Child) -> str:
    return b"".join([piece async for piece in child.output]).decode()


async def until(true: Callable[[], bool]) -> None:
    """Nobody is told when something has been reaped: look again and again."""
    while True:
        if true():
            return
        await trio.lowlevel.checkpoint()


async def flood(spawner: Spawner) -> object:
    """200 orphans that end, beside 100 children that end: the statuses that were told, and who was left unreaped.

    The last ten are asked for their status only when all has been reaped that there was to reap.
    """
    statuses: list[int] = []
    late = [await bash(spawner, f"exit {status}") for status in range(90, 100)]

    async def orphans() -> None:
        # Each is forked twice and leaves the session, so that closing the child ends none of them.
        async with await bash(spawner, "for i in $(seq 100); do (setsid sh -c 'exit 9' &); done") as child:
            await child.wait()
            await said(child)  # to its end: the orphans hold the pipe as long as they run

    async def short(status: int) -> None:
        async with await bash(spawner, f"exit {status}") as child:
            statuses.append(await child.wait())

    async with trio.open_nursery() as nursery:
        for status in range(90):
            if status in {30, 60}:
                nursery.start_soon(orphans)
            nursery.start_soon(short, status)
    await until(lambda: len(children(os.getpid())) == len(late))
    for child in late:
        statuses.append(await child.wait())
        await child.aclose()
    return {"statuses": sorted(statuses), "left": children(os.getpid()), "running": spawner.running}


async def left_behind(spawner: Spawner) -> object:
    """A stray that is told of and left alone."""
    async with await bash(spawner, STRAY) as child:
        stray = int(await said(child))
    seen = look(stray)
    return {"stray": stray, "parent": seen and seen.parent, "ours": os.getpid()}


async def killed(spawner: Spawner) -> object:
    """A stray that kill_all ends, and that is reaped then."""
    async with await bash(spawner, STRAY) as child:
        stray = int(await said(child))
    spawner.kill_all()
    await until(lambda: look(stray) is None)
    return {"left": children(os.getpid())}


async def stranger(spawner: Spawner) -> object:
    """What was a child of this process before it could adopt anybody, with a child of its own; and a stray of ours."""
    async with await bash(spawner, STRAY) as child:
        stray = int(await said(child))
    return {"stray": stray, "strangers": [seen.pid for seen in descendants(os.getpid()) if seen.pid != stray]}


async def killed_beside_a_stranger(spawner: Spawner) -> object:
    told = await stranger(spawner)
    spawner.kill_all()
    return told


async def mortal(spawner: Spawner) -> object:
    """Children that the test sees after our end: behind the gate, about to die with us, and about to stay."""
    gated = [await bash(spawner, "echo done > it", gated=True, dies_with_us=dies) for dies in (True, False)]
    dying = await bash(spawner, "exec sleep 1000")
    staying = await bash(spawner, "exec sleep 1000", dies_with_us=False)
    print(json.dumps([child.pid for child in (*gated, dying, staying)]), flush=True)  # noqa: T201 - what the test reads
    await trio.sleep_forever()


async def no_files(spawner: Spawner) -> object:
    """As many descriptors as there are, from the first child on."""
    no_more_files()
    try:
        return await refusal(spawner)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, USUAL)


def no_more_files() -> None:
    """Those that are open stay so."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, USUAL[1]))


async def no_files_to_look_with(spawner: Spawner) -> object:
    """One child is closed when there is no descriptor to look at it with, and another is left to be."""
    children = [await bash(spawner, "exec sleep 1000") for _ in range(2)]
    no_more_files()
    await children[0].aclose()
    spawner.kill_all()
    return spawner.running


async def no_forks(spawner: Spawner) -> object:
    """As many processes as there may be; root knows no such limit."""
    await (await bash(spawner, "exit 0")).aclose()
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return await refusal(spawner)


async def refusal(spawner: Spawner) -> list[str]:
    try:
        await bash(spawner, "exit 0")
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
    undumpable()
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with Spawner(0o022) as spawner, trio.open_nursery() as nursery:
            await nursery.start(spawner.reap)
            told = await scenario(spawner)
            nursery.cancel_scope.cancel()
    resource.setrlimit(resource.RLIMIT_NOFILE, USUAL)
    print(json.dumps([told, logs, children(os.getpid())]))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
