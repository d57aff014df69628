"""A script that adopts and reaps orphans as walrusd does.

    python -m tests.fakes.reaper_script SCENARIO

It prints one line of JSON: the result of the scenario, the log lines, and the pids of the children that are left.
It is a process of its own because it reaps every child that ends, and becomes the parent of all orphans.
"""

import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache

import structlog
import trio
from structlog.testing import capture_logs

from walrusd.host import launch
from walrusd.host.child import Child
from walrusd.host.launch import SpawnFailed
from walrusd.host.libc import set_undumpable
from walrusd.host.procfs import child_pids, descendants, read_proc
from walrusd.host.spawner import Spawner

DEFAULT_NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)
ORPHAN_SCRIPT = "setsid sh -c 'echo $$; exec sleep 1000 > /dev/null 2>&1' &"
"""A shell command that starts an orphan: it leaves the session, and then prints its pid."""


async def start_bash(spawner: Spawner, script: str, *, with_start_barrier: bool = False) -> Child:
    return await spawner.spawn(
        ["bash", "-c", script], cwd=os.getcwd(), env=dict(os.environ), with_start_barrier=with_start_barrier
    )


@contextmanager
def without_setpriv() -> Iterator[None]:
    """Starts children in the block as on a system without util-linux's setpriv."""
    find, launch.find_pdeathsig_command = launch.find_pdeathsig_command, cache(tuple[str, ...])
    try:
        yield
    finally:
        launch.find_pdeathsig_command = find


async def read_output(child: Child) -> str:
    return b"".join([piece async for piece in child.output]).decode()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Polls the condition: reaping sends no notification."""
    while True:
        if condition():
            return
        await trio.lowlevel.checkpoint()


async def flood(spawner: Spawner) -> object:
    """Runs 200 orphans beside 100 children; returns the children's statuses and all unreaped pids.

    The status of the last ten children is read only after everything else has been reaped.
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


async def leave_orphan(spawner: Spawner) -> object:
    """Adopts an orphan and leaves it running; returns its pid and its parent's pid."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        orphan = int(await read_output(child))
    seen = read_proc(orphan)
    return {"orphan": orphan, "parent": seen and seen.ppid, "ours": os.getpid()}


async def kill_orphan(spawner: Spawner) -> object:
    """Kills an adopted orphan with `kill_all`, and waits until it is reaped."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        orphan = int(await read_output(child))
    spawner.kill_all()
    await wait_until(lambda: read_proc(orphan) is None)
    return {"left": child_pids(os.getpid())}


async def list_preexisting(spawner: Spawner) -> object:
    """Starts an orphan; returns its pid and the pids of the descendants from before the exec."""
    async with await start_bash(spawner, ORPHAN_SCRIPT) as child:
        orphan = int(await read_output(child))
    return {"orphan": orphan, "preexisting": [seen.pid for seen in descendants(os.getpid()) if seen.pid != orphan]}


async def kill_beside_preexisting(spawner: Spawner) -> object:
    result = await list_preexisting(spawner)
    spawner.kill_all()
    return result


async def start_and_wait(spawner: Spawner) -> object:
    """Starts two children behind the start barrier and two running ones; then waits to be killed."""
    gated = await start_bash(spawner, "echo done > it", with_start_barrier=True)
    dying = await start_bash(spawner, "exec sleep 1000")
    with without_setpriv():
        gated_too = await start_bash(spawner, "echo done > it", with_start_barrier=True)
        staying = await start_bash(spawner, "exec sleep 1000")
    print(json.dumps([child.pid for child in (gated, gated_too, dying, staying)]), flush=True)  # noqa: T201 - what the test reads
    await trio.sleep_forever()


async def no_files(spawner: Spawner) -> object:
    """Spawns a child when no file descriptor is free; returns the error."""
    limit_open_files()
    try:
        return await spawn_failure(spawner)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, DEFAULT_NOFILE)


def limit_open_files() -> None:
    """Allows no further descriptors; those that are open stay open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, DEFAULT_NOFILE[1]))


async def no_files_to_look_with(spawner: Spawner) -> object:
    """Closes one of two children while no descriptor is free to read /proc; returns how many remain."""
    children = [await start_bash(spawner, "exec sleep 1000") for _ in range(2)]
    limit_open_files()
    await children[0].aclose()
    spawner.kill_all()
    return spawner.unreaped_count


async def no_forks(spawner: Spawner) -> object:
    """Spawns a child at the process limit as `nobody`, because root has no limit; returns the error."""
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
    *(flood, leave_orphan, kill_orphan, start_and_wait),
    *(list_preexisting, kill_beside_preexisting),
    *(no_files, no_files_to_look_with, no_forks),
)


async def main(name: str) -> None:
    [scenario] = [scenario for scenario in SCENARIOS if getattr(scenario, "__name__", "") == name]
    set_undumpable()
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with Spawner(0o022) as spawner, trio.open_nursery() as nursery:
            await nursery.start(spawner.adopt_and_reap)
            result = await scenario(spawner)
            nursery.cancel_scope.cancel()
    resource.setrlimit(resource.RLIMIT_NOFILE, DEFAULT_NOFILE)
    print(json.dumps([result, logs, child_pids(os.getpid())]))  # noqa: T201 - what the test reads


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
