"""Hypothesis strategies for scenarios: of all operations, or with many created and deleted sessions."""

from hypothesis import strategies as st

from tests.runtime.model_based.operations import (
    AdvanceTime,
    AnswerAutomatically,
    AttachReader,
    CancelRequest,
    Close,
    Create,
    ExpireSessions,
    Export,
    FailWrites,
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
    RepairStore,
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
from walrusd.session.recovery import OnRestart

OperationStrategy = st.SearchStrategy[Operation]

small_numbers = st.integers(0, 3)
session_numbers = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
"""Indexes of sessions; most operations should be on the same few sessions."""
step_counts = st.integers(0, 12)
restart_modes: st.SearchStrategy[OnRestart] = st.sampled_from(["continue", "continue", "close"])
storage_problems = st.sampled_from(["storage_full", "storage_failed"])
STRATEGIES: dict[type[Operation], OperationStrategy] = {
    Send: st.builds(
        Send,
        session=session_numbers,
        when_busy=st.sampled_from(["queue", "steer", "interrupt", "reject"]),
        key=st.sampled_from([None, None, "k", "l"]),
        other=st.sampled_from([False, False, False, True]),
        timeout_s=st.sampled_from([None, None, 5.0]),
        stream=st.booleans(),
    ),
    ModelAction: st.builds(
        ModelAction,
        call=small_numbers,
        action=st.sampled_from(
            [
                "answer",
                "answer",
                "call tools",
                "call tools",
                "text chunk",
                "text chunk",
                "thinking chunk",
                "fail",
                "empty answer",
                "crash",
            ]
        ),
    ),
    ToolAction: st.builds(
        ToolAction, call=small_numbers, action=st.sampled_from(["return", "return", "return", "crash"])
    ),
    AnswerAutomatically: st.builds(AnswerAutomatically, action=st.sampled_from(["answer", "call tools"])),
    Interrupt: st.builds(Interrupt, session=session_numbers),
    Close: st.builds(Close, session=session_numbers, force=st.booleans()),
    Resume: st.builds(Resume, session=session_numbers),
    Fork: st.builds(Fork, session=session_numbers, at=st.none() | st.integers(0, 60)),
    Rewind: st.builds(Rewind, session=session_numbers, at=st.integers(0, 60)),
    MakeCheckpoint: st.builds(MakeCheckpoint, session=session_numbers, name=st.sampled_from(["a", "b"])),
    ReadHistory: st.builds(ReadHistory, session=session_numbers),
    Export: st.builds(Export, session=session_numbers),
    Import: st.builds(Import, document=small_numbers),
    ExpireSessions: st.builds(
        ExpireSessions,
        keep_s=st.sampled_from([0.0, 0.0, 5.0]),
        over_quota=st.sampled_from([False, False, True]),
        sweeps=st.booleans(),
    ),
    Sweep: st.builds(Sweep),
    ToggleSubscriber: st.builds(
        ToggleSubscriber, client=small_numbers, since=st.none() | st.integers(0, 200), slow=st.booleans()
    ),
    SetMaxIdle: st.builds(SetMaxIdle, idle_s=st.sampled_from([0.01, 600.0])),
    AttachReader: st.builds(
        AttachReader, session=session_numbers, since=st.integers(0, 60), deltas=st.booleans(), idle=st.booleans()
    ),
    PollIdleReaders: st.builds(PollIdleReaders, limit=st.sampled_from([1, 3, 512])),
    CancelRequest: st.builds(CancelRequest, client=small_numbers),
    Create: st.builds(Create, key=st.sampled_from([None, "k"])),
    AdvanceTime: st.builds(AdvanceTime, seconds=st.sampled_from([0.3, 6.0, 40.0])),
    YieldToOthers: st.builds(YieldToOthers, steps=step_counts),
    HoldWrites: st.builds(HoldWrites, when=st.sampled_from(["before", "after"]), steps=step_counts),
    ReleaseWrites: st.builds(ReleaseWrites),
    FailWrites: st.builds(FailWrites, kind=storage_problems, steps=step_counts),
    RepairStore: st.builds(RepairStore),
    Restart: st.builds(Restart, grace_s=st.sampled_from([0.0, 5.0]), failing=st.booleans(), on_restart=restart_modes),
    PowerCut: st.builds(
        PowerCut,
        failing=st.booleans(),
        steps=step_counts,
        on_restart=restart_modes,
        after_s=st.sampled_from([0.0, 0.0, 0.3, 1.0, 3.0]),
    ),
}
ALL_WEIGHTS: dict[type[Operation], int] = {
    Send: 24,
    ModelAction: 24,
    ToolAction: 8,
    AnswerAutomatically: 8,
    Interrupt: 4,
    Close: 4,
    Resume: 3,
    Fork: 6,
    Rewind: 8,
    MakeCheckpoint: 3,
    ReadHistory: 3,
    Export: 3,
    Import: 3,
    ExpireSessions: 4,
    Sweep: 1,
    ToggleSubscriber: 5,
    SetMaxIdle: 2,
    AttachReader: 4,
    PollIdleReaders: 2,
    CancelRequest: 2,
    Create: 2,
    AdvanceTime: 6,
    YieldToOthers: 4,
    HoldWrites: 5,
    ReleaseWrites: 5,
    FailWrites: 3,
    RepairStore: 4,
    Restart: 2,
    PowerCut: 3,
}
"""Relative frequency of each operation in general scenarios."""
SESSION_TURNOVER_WEIGHTS: dict[type[Operation], int] = {
    Send: 12,
    AnswerAutomatically: 14,
    Close: 9,
    Fork: 12,
    Rewind: 5,
    MakeCheckpoint: 1,
    ReadHistory: 2,
    Export: 6,
    Import: 7,
    ExpireSessions: 9,
    Sweep: 2,
    ToggleSubscriber: 5,
    PollIdleReaders: 2,
    Create: 1,
    YieldToOthers: 6,
    HoldWrites: 2,
    ReleaseWrites: 4,
    CancelRequest: 1,
    Restart: 1,
    PowerCut: 3,
}
"""Relative frequency of each operation in scenarios in which sessions and their forks come and go."""


def weighted_operations(weights: dict[type[Operation], int]) -> OperationStrategy:
    """Returns a strategy that draws operations with these relative frequencies."""
    return st.sampled_from([kind for kind, weight in weights.items() for _ in range(weight)]).flatmap(
        STRATEGIES.__getitem__
    )


scenarios = st.sampled_from([weighted_operations(ALL_WEIGHTS), weighted_operations(SESSION_TURNOVER_WEIGHTS)]).flatmap(
    lambda operations: st.lists(st.lists(operations, max_size=4), min_size=8, max_size=40)
)
"""Groups may be empty, so that hypothesis can shrink a scenario of the minimum length."""
