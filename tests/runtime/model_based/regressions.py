"""Stories that went wrong once, and such as are rarely drawn."""

from collections.abc import Sequence

from tests.runtime.model_based.operations import (
    AdvanceTime,
    AnswerAutomatically,
    AttachReader,
    CancelRequest,
    Close,
    Create,
    ExpireSessions,
    Export,
    Fork,
    HoldWrites,
    Import,
    Interrupt,
    MakeCheckpoint,
    ModelAction,
    Operation,
    PollIdleReaders,
    PowerCut,
    ReadHistory,
    ReleaseWrites,
    Restart,
    Resume,
    Rewind,
    Send,
    SetMaxIdle,
    Sweep,
    ToggleSubscriber,
    ToolAction,
    YieldToOthers,
)
from walrus_protocol.content import WhenBusy

Scenario = Sequence[Sequence[Operation]]


def send(when_busy: WhenBusy = "queue", key: str | None = None, session: int = 0) -> Send:
    return Send(session=session, when_busy=when_busy, key=key, other=False, timeout_s=None, stream=False)


HOLD = HoldWrites(when="before", steps=0)
FIXED_BUGS: dict[str, Scenario] = {
    "the turn that was left open cannot be ended at once": [
        [send()],
        [ModelAction(call=0, action="call tools")],
        [Restart(grace_s=0, failing=True)],
    ],
    "two closes at once": [[Close(session=0, force=True), Close(session=0, force=False)]],
    "the first of two twins goes away": [
        [HOLD],
        [send(key="k")],
        [send(), send(), send(key="k"), CancelRequest(client=0)],
    ],
    "an interrupt that meets the end of the turn": [
        [send(), send(), send()],
        [ModelAction(call=0, action="answer"), Interrupt(session=0)],
    ],
    "an interrupt that meets a crash": [[send()], [ModelAction(call=0, action="crash"), Interrupt(session=0)]],
    "a turn that opens while the worker of the one before leaves": [
        [send()],
        [send(), Interrupt(session=0), send("reject")],
        [ModelAction(call=0, action="answer"), send(key="k")],
    ],
    "a close between the two looks of a message that interrupts": [
        [PowerCut(failing=True, steps=0)],
        [send()],
        [HOLD],
        [send()],
        [send("interrupt"), Close(session=0, force=False)],
    ],
}
POWER_CUT = PowerCut(failing=False, steps=0)
FORK_AT_EVERY_POINT: list[list[Operation]] = [[Fork(session=0, at=at)] for at in range(16)]
"""At every point there is, and one that is not."""
RARE_SCENARIOS: dict[str, Scenario] = {
    "a fork that was read is rewound in memory": [
        [SetMaxIdle(600.0)],
        *([send()], [AnswerAutomatically()], [Fork(session=0, at=None)], [ReadHistory(1)]),
        *(
            [send(session=1)],
            [AnswerAutomatically()],
            [Rewind(session=1, at=0)],
            [send(session=1)],
            [AnswerAutomatically()],
        ),
    ],
    "forks of forks of what is rewound and closed": [
        *([send()], [AnswerAutomatically()], [Fork(session=0, at=None)]),
        *([send(session=1)], [AnswerAutomatically()], [Fork(session=1, at=None)]),
        *([send(session=2)], [AnswerAutomatically()], [Rewind(session=0, at=0)], [Close(session=1, force=False)]),
        *([Fork(session=1, at=None)], [Fork(session=2, at=None)], [POWER_CUT], [ReadHistory(3), ReadHistory(4)]),
    ],
    "every point of a turn with tools, while it runs and after": [
        [send()],
        [ModelAction(call=0, action="call tools")],
        [MakeCheckpoint(session=0, name="a"), Rewind(session=0, at=0)],
        [Fork(session=0, at=None)],
        [Fork(session=0, at=3)],
        [AnswerAutomatically()],
        *FORK_AT_EVERY_POINT,
        [Rewind(session=0, at=5)],
        [Rewind(session=0, at=13)],
        [Rewind(session=0, at=2)],
    ],
    "a message that comes while a session is rewound": [
        *(
            [send()],
            [AnswerAutomatically()],
            [HOLD],
            [Rewind(session=0, at=0)],
            [send(), send(key="k")],
            [ReleaseWrites()],
        ),
        *([AnswerAutomatically()], [Rewind(session=0, at=0)], [send(key="k")]),
    ],
    "two crashes, and then by hand": [
        [send()],
        [POWER_CUT],
        [POWER_CUT],
        [],
        [Resume(0)],
        [POWER_CUT],
        [AnswerAutomatically()],
    ],
    "an interrupt that is durable and nobody was told": [
        *([send()], [HoldWrites(when="after", steps=0)], [Interrupt(session=0)], [POWER_CUT], [AnswerAutomatically()]),
    ],
    "a crash while a tool does what cannot be done twice": [
        *(
            [send()],
            [ModelAction(call=0, action="call tools")],
            [ToolAction(call=0, action="return"), ToolAction(call=1, action="return")],
        ),
        *([POWER_CUT], [AnswerAutomatically()]),
    ],
    "a crash in mid-sentence": [
        [send()],
        [ModelAction(call=0, action="say")],
        [AdvanceTime(0.3)],
        [POWER_CUT],
        [AnswerAutomatically()],
    ],
}
EXPIRE_ALL = ExpireSessions(keep_s=0.0, over_quota=False, sweeps=True)
CLOSE = Close(session=0, force=False)
TOGGLE_SUBSCRIBER = ToggleSubscriber(client=0, since=None, slow=False)
ANSWER_WITH_TOOLS = AnswerAutomatically("call tools")
POWER_CUT_DURING_IMPORT: list[list[Operation]] = [
    [Import(0), PowerCut(failing=False, steps=steps)] for steps in range(0, 40, 3)
]
POWER_CUT_DURING_SWEEP: list[list[Operation]] = [
    [Sweep(), PowerCut(failing=False, steps=3, after_s=after_s)] for after_s in (0.0, 0.3, 1.0, 3.0)
]


def one_per_group(*operations: Operation) -> list[list[Operation]]:
    """Each in a moment of its own."""
    return [[order] for order in operations]


SESSION_TURNOVER: dict[str, Scenario] = {
    "one goes and comes again, and what was made of it": [
        *one_per_group(
            TOGGLE_SUBSCRIBER,
            send(key="k"),
            ANSWER_WITH_TOOLS,
            send(),
            AnswerAutomatically(),
            Rewind(session=0, at=13),
            MakeCheckpoint(0, "a"),
            send(),
        ),
        *one_per_group(
            AnswerAutomatically(),
            Export(0),
            CLOSE,
            EXPIRE_ALL,
            POWER_CUT,
            Import(0),
            TOGGLE_SUBSCRIBER,
            send(key="k"),
            Rewind(session=0, at=13),
        ),
        *one_per_group(
            Fork(session=0, at=9),
            send(session=1),
            AnswerAutomatically(),
            Export(1),
            CLOSE,
            EXPIRE_ALL,
            Import(1),
            send(session=1),
        ),
        *one_per_group(AnswerAutomatically(), CLOSE, EXPIRE_ALL, ReadHistory(0)),
    ],
    "forks of forks of what goes, and then they": [
        *one_per_group(
            send(),
            AnswerAutomatically(),
            Fork(0, None),
            send(session=1),
            AnswerAutomatically(),
            Fork(1, None),
            send(session=2),
            AnswerAutomatically(),
        ),
        [CLOSE, Close(session=1, force=False)],
        *one_per_group(
            EXPIRE_ALL,
            POWER_CUT,
            ReadHistory(0),
            send(),
            AnswerAutomatically(),
            Export(0),
            CLOSE,
            EXPIRE_ALL,
            Import(0),
            ReadHistory(0),
            send(),
            AnswerAutomatically(),
        ),
        *one_per_group(CLOSE, EXPIRE_ALL),
    ],
    "texts and outputs that two have": [
        *one_per_group(
            send(),
            ANSWER_WITH_TOOLS,
            Create(None),
            send(session=1),
            ANSWER_WITH_TOOLS,
            Export(0),
            CLOSE,
            EXPIRE_ALL,
            ReadHistory(0),
            Import(0),
        ),
        *one_per_group(Export(1), Import(1), CLOSE, EXPIRE_ALL, ReadHistory(0), CLOSE, EXPIRE_ALL, ReadHistory(0)),
    ],
    "an import that is cut off": [
        *one_per_group(send(key="k"), ANSWER_WITH_TOOLS, Export(0)),
        *POWER_CUT_DURING_IMPORT,
        *one_per_group(Import(0), send(session=1, key="k"), AnswerAutomatically()),
    ],
    "a sweep that is cut off": [
        *one_per_group(
            send(),
            ANSWER_WITH_TOOLS,
            send(),
            ANSWER_WITH_TOOLS,
            Fork(0, 3),
            CLOSE,
            ExpireSessions(0.0, over_quota=False, sweeps=False),
        ),
        *POWER_CUT_DURING_SWEEP,
    ],
    "one that somebody reads stays as long as he does": [
        *one_per_group(
            send(),
            AnswerAutomatically(),
            AttachReader(0, 0, deltas=True, idle=True),
            CLOSE,
            EXPIRE_ALL,
            PollIdleReaders(3),
            POWER_CUT,
            EXPIRE_ALL,
            ReadHistory(0),
        ),
    ],
    "one who follows, while sessions come and go": [
        *one_per_group(
            ToggleSubscriber(0, 0, slow=True),
            send(),
            ANSWER_WITH_TOOLS,
            Export(0),
            TOGGLE_SUBSCRIBER,
            Import(0),
            CLOSE,
            EXPIRE_ALL,
            TOGGLE_SUBSCRIBER,
            PollIdleReaders(3),
        ),
        *one_per_group(
            Import(0), Restart(0.0, failing=False), TOGGLE_SUBSCRIBER, Fork(0, None), send(), AnswerAutomatically()
        ),
    ],
}
FORK_DURING_EXPIRY: dict[str, Scenario] = {
    f"one that is forked {steps} steps after it is to go": [
        *one_per_group(send(), ANSWER_WITH_TOOLS, send(), ANSWER_WITH_TOOLS, CLOSE, AdvanceTime(6.0)),
        [EXPIRE_ALL, YieldToOthers(steps), Fork(0, 3)],
    ]
    for steps in range(8)
}
