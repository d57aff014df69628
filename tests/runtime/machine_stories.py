"""Stories that went wrong once, and such as are rarely drawn."""

from collections.abc import Sequence

from tests.runtime.machine_orders import (
    Attach,
    Checkpoint,
    Close,
    Create,
    Evict,
    Expire,
    Export,
    Fork,
    Hold,
    Import,
    Interrupt,
    Leave,
    Look,
    Order,
    Pass,
    PowerCut,
    Read,
    Release,
    Restart,
    Resume,
    Rewind,
    Send,
    Settle,
    Speak,
    Step,
    Sweep,
    Watch,
    Work,
)
from walrus_protocol.content import WhenBusy

Story = Sequence[Sequence[Order]]


def sends(when_busy: WhenBusy = "queue", key: str | None = None, session: int = 0) -> Send:
    return Send(session=session, when_busy=when_busy, key=key, other=False, timeout_s=None, stream=False)


HOLD = Hold(where="before", steps=0)
WENT_WRONG: dict[str, Story] = {
    "the turn that was left open cannot be ended at once": [
        [sends()],
        [Speak(call=0, does="call tools")],
        [Restart(grace_s=0, failing=True)],
    ],
    "two closes at once": [[Close(session=0, force=True), Close(session=0, force=False)]],
    "the first of two twins goes away": [
        [HOLD],
        [sends(key="k")],
        [sends(), sends(), sends(key="k"), Leave(client=0)],
    ],
    "an interrupt that meets the end of the turn": [
        [sends(), sends(), sends()],
        [Speak(call=0, does="answer"), Interrupt(session=0)],
    ],
    "an interrupt that meets a crash": [[sends()], [Speak(call=0, does="crash"), Interrupt(session=0)]],
    "a turn that opens while the worker of the one before leaves": [
        [sends()],
        [sends(), Interrupt(session=0), sends("reject")],
        [Speak(call=0, does="answer"), sends(key="k")],
    ],
    "a close between the two looks of a message that interrupts": [
        [PowerCut(failing=True, steps=0)],
        [sends()],
        [HOLD],
        [sends()],
        [sends("interrupt"), Close(session=0, force=False)],
    ],
}
CUT = PowerCut(failing=False, steps=0)
FORKS: list[list[Order]] = [[Fork(session=0, at=at)] for at in range(16)]
"""At every point there is, and one that is not."""
RARELY_DRAWN: dict[str, Story] = {
    "a fork that was read is rewound in memory": [
        [Evict(600.0)],
        *([sends()], [Settle()], [Fork(session=0, at=None)], [Read(1)]),
        *([sends(session=1)], [Settle()], [Rewind(session=1, at=0)], [sends(session=1)], [Settle()]),
    ],
    "forks of forks of what is rewound and closed": [
        *([sends()], [Settle()], [Fork(session=0, at=None)]),
        *([sends(session=1)], [Settle()], [Fork(session=1, at=None)]),
        *([sends(session=2)], [Settle()], [Rewind(session=0, at=0)], [Close(session=1, force=False)]),
        *([Fork(session=1, at=None)], [Fork(session=2, at=None)], [CUT], [Read(3), Read(4)]),
    ],
    "every point of a turn with tools, while it runs and after": [
        [sends()],
        [Speak(call=0, does="call tools")],
        [Checkpoint(session=0, name="a"), Rewind(session=0, at=0)],
        [Fork(session=0, at=None)],
        [Fork(session=0, at=3)],
        [Settle()],
        *FORKS,
        [Rewind(session=0, at=5)],
        [Rewind(session=0, at=13)],
        [Rewind(session=0, at=2)],
    ],
    "a message that comes while a session is rewound": [
        *([sends()], [Settle()], [HOLD], [Rewind(session=0, at=0)], [sends(), sends(key="k")], [Release()]),
        *([Settle()], [Rewind(session=0, at=0)], [sends(key="k")]),
    ],
    "two crashes, and then by hand": [[sends()], [CUT], [CUT], [], [Resume(0)], [CUT], [Settle()]],
    "an interrupt that is durable and nobody was told": [
        *([sends()], [Hold(where="after", steps=0)], [Interrupt(session=0)], [CUT], [Settle()]),
    ],
    "a crash while a tool does what cannot be done twice": [
        *([sends()], [Speak(call=0, does="call tools")], [Work(call=0, does="return"), Work(call=1, does="return")]),
        *([CUT], [Settle()]),
    ],
    "a crash in mid-sentence": [[sends()], [Speak(call=0, does="say")], [Pass(0.3)], [CUT], [Settle()]],
}
GO = Expire(keep_s=0.0, room=False, sweeps=True)
CLOSE = Close(session=0, force=False)
WATCH = Watch(client=0, since=None, slow=False)
TOOLS = Settle("call tools")
CUT_OFF: list[list[Order]] = [[Import(0), PowerCut(failing=False, steps=steps)] for steps in range(0, 40, 3)]
SWEPT_IN_PART: list[list[Order]] = [
    [Sweep(), PowerCut(failing=False, steps=3, after_s=after_s)] for after_s in (0.0, 0.3, 1.0, 3.0)
]


def apart(*orders: Order) -> list[list[Order]]:
    """Each in a moment of its own."""
    return [[order] for order in orders]


COMING_AND_GOING: dict[str, Story] = {
    "one goes and comes again, and what was made of it": [
        *apart(WATCH, sends(key="k"), TOOLS, sends(), Settle(), Rewind(session=0, at=13), Checkpoint(0, "a"), sends()),
        *apart(Settle(), Export(0), CLOSE, GO, CUT, Import(0), WATCH, sends(key="k"), Rewind(session=0, at=13)),
        *apart(Fork(session=0, at=9), sends(session=1), Settle(), Export(1), CLOSE, GO, Import(1), sends(session=1)),
        *apart(Settle(), CLOSE, GO, Read(0)),
    ],
    "forks of forks of what goes, and then they": [
        *apart(sends(), Settle(), Fork(0, None), sends(session=1), Settle(), Fork(1, None), sends(session=2), Settle()),
        [CLOSE, Close(session=1, force=False)],
        *apart(GO, CUT, Read(0), sends(), Settle(), Export(0), CLOSE, GO, Import(0), Read(0), sends(), Settle()),
        *apart(CLOSE, GO),
    ],
    "texts and outputs that two have": [
        *apart(sends(), TOOLS, Create(None), sends(session=1), TOOLS, Export(0), CLOSE, GO, Read(0), Import(0)),
        *apart(Export(1), Import(1), CLOSE, GO, Read(0), CLOSE, GO, Read(0)),
    ],
    "an import that is cut off": [
        *apart(sends(key="k"), TOOLS, Export(0)),
        *CUT_OFF,
        *apart(Import(0), sends(session=1, key="k"), Settle()),
    ],
    "a sweep that is cut off": [
        *apart(sends(), TOOLS, sends(), TOOLS, Fork(0, 3), CLOSE, Expire(0.0, room=False, sweeps=False)),
        *SWEPT_IN_PART,
    ],
    "one that somebody reads stays as long as he does": [
        *apart(sends(), Settle(), Attach(0, 0, deltas=True, idle=True), CLOSE, GO, Look(3), CUT, GO, Read(0)),
    ],
    "one who follows, while sessions come and go": [
        *apart(Watch(0, 0, slow=True), sends(), TOOLS, Export(0), WATCH, Import(0), CLOSE, GO, WATCH, Look(3)),
        *apart(Import(0), Restart(0.0, failing=False), WATCH, Fork(0, None), sends(), Settle()),
    ],
}
FORKED_WHILE_IT_GOES: dict[str, Story] = {
    f"one that is forked {steps} steps after it is to go": [
        *apart(sends(), TOOLS, sends(), TOOLS, CLOSE, Pass(6.0)),
        [GO, Step(steps), Fork(0, 3)],
    ]
    for steps in range(8)
}
