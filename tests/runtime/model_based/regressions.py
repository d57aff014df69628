"""Scenarios that failed once, and scenarios that hypothesis rarely generates."""

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
    "an import of a closed session expires like any other": [
        [send()],
        [AnswerAutomatically()],
        [Close(session=0, force=True)],
        [Export(0)],
        [Import(0)],
        [ExpireSessions(keep_s=0, over_quota=False, sweeps=True)],
    ],
    "an output is stored again while retention releases it": [
        [AnswerAutomatically(action="call tools"), send()],
        [send(), ExpireSessions(keep_s=0.0, over_quota=True, sweeps=False)],
    ],
    "an open turn cannot be ended at once after a restart": [
        [send()],
        [ModelAction(call=0, action="call tools")],
        [Restart(grace_s=0, failing=True)],
    ],
    "two closes at the same time": [[Close(session=0, force=True), Close(session=0, force=False)]],
    "the first of two sends with one key is cancelled": [
        [HOLD],
        [send(key="k")],
        [send(), send(), send(key="k"), CancelRequest(client=0)],
    ],
    "an interrupt at the end of the turn": [
        [send(), send(), send()],
        [ModelAction(call=0, action="answer"), Interrupt(session=0)],
    ],
    "an interrupt during a crash of the model": [[send()], [ModelAction(call=0, action="crash"), Interrupt(session=0)]],
    "a turn opens while the worker finishes the one before": [
        [send()],
        [send(), Interrupt(session=0), send("reject")],
        [ModelAction(call=0, action="answer"), send(key="k")],
    ],
    "a close between the two checks of an interrupting message": [
        [PowerCut(failing=True, steps=0)],
        [send()],
        [HOLD],
        [send()],
        [send("interrupt"), Close(session=0, force=False)],
    ],
}
POWER_CUT = PowerCut(failing=False, steps=0)
FORK_AT_EVERY_POINT: list[list[Operation]] = [[Fork(session=0, at=at)] for at in range(16)]
"""Forks at every existing point, and at one that does not exist."""
RARE_SCENARIOS: dict[str, Scenario] = {
    "a fork whose history was read is rewound in memory": [
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
    "forks of forks of a session that is rewound and closed": [
        *([send()], [AnswerAutomatically()], [Fork(session=0, at=None)]),
        *([send(session=1)], [AnswerAutomatically()], [Fork(session=1, at=None)]),
        *([send(session=2)], [AnswerAutomatically()], [Rewind(session=0, at=0)], [Close(session=1, force=False)]),
        *([Fork(session=1, at=None)], [Fork(session=2, at=None)], [POWER_CUT], [ReadHistory(3), ReadHistory(4)]),
    ],
    "every point of a turn with tools, during the turn and after it": [
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
    "a message arrives while a session is rewound": [
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
    "two crashes, then a resume by hand": [
        [send()],
        [POWER_CUT],
        [POWER_CUT],
        [],
        [Resume(0)],
        [POWER_CUT],
        [AnswerAutomatically()],
    ],
    "an interrupt that is durable but not reported": [
        *([send()], [HoldWrites(when="after", steps=0)], [Interrupt(session=0)], [POWER_CUT], [AnswerAutomatically()]),
    ],
    "a crash during a tool call that is not idempotent": [
        *(
            [send()],
            [ModelAction(call=0, action="call tools")],
            [ToolAction(call=0, action="return"), ToolAction(call=1, action="return")],
        ),
        *([POWER_CUT], [AnswerAutomatically()]),
    ],
    "a crash during a reply": [
        [send()],
        [ModelAction(call=0, action="text chunk")],
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
    """Returns the operations, each in a group of its own."""
    return [[operation] for operation in operations]


SESSION_TURNOVER: dict[str, Scenario] = {
    "a session expires and is imported again, then forked": [
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
    "a session with forks of forks expires, then the forks do": [
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
    "texts and outputs that two sessions share": [
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
    "power cuts during an import": [
        *one_per_group(send(key="k"), ANSWER_WITH_TOOLS, Export(0)),
        *POWER_CUT_DURING_IMPORT,
        *one_per_group(Import(0), send(session=1, key="k"), AnswerAutomatically()),
    ],
    "power cuts during a sweep": [
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
    "a session with a reader is not deleted while it is read": [
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
    "a subscriber while sessions are created and deleted": [
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
    f"a fork {steps} steps after the expiry of its parent began": [
        *one_per_group(send(), ANSWER_WITH_TOOLS, send(), ANSWER_WITH_TOOLS, CLOSE, AdvanceTime(6.0)),
        [EXPIRE_ALL, YieldToOthers(steps), Fork(0, 3)],
    ]
    for steps in range(8)
}
