"""A daemon without its socket that kills itself at the n-th write, for every n until it survives.

Each n has a folder of its own; there the daemon is started again, and told the same once more. In the folder are
the database; `touched`, a line for every time that the tool took effect; `accepted`, a line for every message that
was; and `results`, a line of JSON for every answer. Prints the n that was survived.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import structlog
import trio

from tests.dispatch.doubles import ALLOW, Doing
from walrusd.agent.agent import Agent
from walrusd.dispatch.pipeline import Pipeline
from walrusd.metrics import Metrics
from walrusd.outfit import DaemonHook
from walrusd.ports import ToolRun
from walrusd.providers.scripted import Scripted, ScriptedCall, ScriptedReply
from walrusd.redaction import Redaction
from walrusd.runtime.inbox import Incoming
from walrusd.runtime.runtime import Runtime
from walrusd.session.mend import OnRestart
from walrusd.store.log import Write
from walrusd.store.sqlite import SqliteLog

SCRIPT = (
    ScriptedReply(when="first", calls=tuple(ScriptedCall(name="touch", arguments={"mark": mark}) for mark in (1, 2))),
    ScriptedReply(when="first", text="Touched."),
    ScriptedReply(when="second", text="Yes."),
)
MESSAGES = ("first", "second")


class MortalLog(SqliteLog):
    """`dies` is the number of the write that ends the process: before it, or when it is durable and nobody knows."""

    dies = 0
    after = False

    def submit(self, write: Write) -> None:
        self.dies -= 1
        if self.dies == 0:
            if not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            write.committed = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        super().submit(write)


def touching(touched: int) -> Callable[[ToolRun], Awaitable[str]]:
    async def touch(run: ToolRun) -> str:
        await trio.lowlevel.checkpoint()
        os.write(touched, b"%s\n" % msgspec.json.encode(run.arguments["mark"]))
        return "touched"

    return touch


async def live(folder: Path, dies: int, *, after: bool, on_restart: OnRestart) -> None:
    touched, accepted, results = (
        os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("touched", "accepted", "results")
    )
    tools = {"touch": Doing("touch", touching(touched))}
    pipeline = Pipeline(
        tools,
        settings={},
        agents={},
        permissions=ALLOW,
        clock=lambda: 0.0,
        spawner=None,
        home=str(folder),
        redact=Redaction(),
    )
    log = await MortalLog.open(str(folder / "walrus.db"), durability="normal")
    assert isinstance(log, MortalLog)
    log.dies, log.after = dies, after
    hook = DaemonHook(pipeline, Metrics("mortal"))
    async with Runtime(Scripted(SCRIPT), hook, log=log, on_restart=on_restart) as runtime:
        runtime.add_agent(Agent(name="walrus"))
        await runtime.recover()
        session = await runtime.create_session("walrus", key="the only one")

        async def answered(key: str, task_status: trio.TaskStatus[None]) -> None:
            ticket = await runtime.send(session, Incoming(content=key, key=key))
            os.write(accepted, b"%s\n" % key.encode())
            task_status.started()
            os.write(results, b"%s\n" % msgspec.json.encode((key, await ticket.outcome())))

        async with trio.open_nursery() as nursery:
            for key in MESSAGES:
                await nursery.start(answered, key)
    await log.aclose()


def fork(life: Callable[[], Awaitable[None]]) -> int:
    """Its wait status. Forked for speed: the imports are paid once, and nothing runs here that a fork could break."""
    child = os.fork()
    if not child:
        trio.run(life)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(folder: Path, *, after: bool, on_restart: OnRestart) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for n in count(1):
        here = folder / str(n)
        here.mkdir()
        killed = fork(partial(live, here, n, after=after, on_restart=on_restart))
        again = fork(partial(live, here, 0, after=after, on_restart=on_restart))
        if again or not os.WIFSIGNALED(killed):
            sys.stdout.write(str(n))
            sys.exit(os.waitstatus_to_exitcode(again or killed))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        after=sys.argv[2] == "after",
        on_restart="continue" if sys.argv[3] == "continue" else "close",
    )
