"""Stories that hypothesis draws, prints and makes smaller: of all orders, or of those by which sessions come and go."""

from hypothesis import strategies as st

from tests.runtime.machine_orders import (
    Attach,
    Checkpoint,
    Close,
    Create,
    Evict,
    Expire,
    Export,
    Fail,
    Fork,
    Hold,
    Import,
    Interrupt,
    Leave,
    Look,
    Mend,
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
from walrusd.session.mend import OnRestart

Build = st.SearchStrategy[Order]

some = st.integers(0, 3)
which = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
"""A session: most of what happens should happen to the same few."""
few = st.integers(0, 12)
either: st.SearchStrategy[OnRestart] = st.sampled_from(["continue", "continue", "close"])
storage = st.sampled_from(["storage_full", "storage_failed"])
BUILDS: dict[type[Order], Build] = {
    Send: st.builds(
        Send,
        session=which,
        when_busy=st.sampled_from(["queue", "steer", "interrupt", "reject"]),
        key=st.sampled_from([None, None, "k", "l"]),
        other=st.sampled_from([False, False, False, True]),
        timeout_s=st.sampled_from([None, None, 5.0]),
        stream=st.booleans(),
    ),
    Speak: st.builds(
        Speak,
        call=some,
        does=st.sampled_from(
            ["answer", "answer", "call tools", "call tools", "say", "say", "think", "fail", "say nothing", "crash"]
        ),
    ),
    Work: st.builds(Work, call=some, does=st.sampled_from(["return", "return", "return", "crash"])),
    Settle: st.builds(Settle, does=st.sampled_from(["answer", "call tools"])),
    Interrupt: st.builds(Interrupt, session=which),
    Close: st.builds(Close, session=which, force=st.booleans()),
    Resume: st.builds(Resume, session=which),
    Fork: st.builds(Fork, session=which, at=st.none() | st.integers(0, 60)),
    Rewind: st.builds(Rewind, session=which, at=st.integers(0, 60)),
    Checkpoint: st.builds(Checkpoint, session=which, name=st.sampled_from(["a", "b"])),
    Read: st.builds(Read, session=which),
    Export: st.builds(Export, session=which),
    Import: st.builds(Import, document=some),
    Expire: st.builds(
        Expire,
        keep_s=st.sampled_from([0.0, 0.0, 5.0]),
        room=st.sampled_from([False, False, True]),
        sweeps=st.booleans(),
    ),
    Sweep: st.builds(Sweep),
    Watch: st.builds(Watch, client=some, since=st.none() | st.integers(0, 200), slow=st.booleans()),
    Evict: st.builds(Evict, idle_s=st.sampled_from([0.01, 600.0])),
    Attach: st.builds(Attach, session=which, since=st.integers(0, 60), deltas=st.booleans(), idle=st.booleans()),
    Look: st.builds(Look, limit=st.sampled_from([1, 3, 512])),
    Leave: st.builds(Leave, client=some),
    Create: st.builds(Create, key=st.sampled_from([None, "k"])),
    Pass: st.builds(Pass, seconds=st.sampled_from([0.3, 6.0, 40.0])),
    Step: st.builds(Step, steps=few),
    Hold: st.builds(Hold, where=st.sampled_from(["before", "after"]), steps=few),
    Release: st.builds(Release),
    Fail: st.builds(Fail, kind=storage, steps=few),
    Mend: st.builds(Mend),
    Restart: st.builds(Restart, grace_s=st.sampled_from([0.0, 5.0]), failing=st.booleans(), on_restart=either),
    PowerCut: st.builds(
        PowerCut,
        failing=st.booleans(),
        steps=few,
        on_restart=either,
        after_s=st.sampled_from([0.0, 0.0, 0.3, 1.0, 3.0]),
    ),
}
ALL: dict[type[Order], int] = {
    Send: 24,
    Speak: 24,
    Work: 8,
    Settle: 8,
    Interrupt: 4,
    Close: 4,
    Resume: 3,
    Fork: 6,
    Rewind: 8,
    Checkpoint: 3,
    Read: 3,
    Export: 3,
    Import: 3,
    Expire: 4,
    Sweep: 1,
    Watch: 5,
    Evict: 2,
    Attach: 4,
    Look: 2,
    Leave: 2,
    Create: 2,
    Pass: 6,
    Step: 4,
    Hold: 5,
    Release: 5,
    Fail: 3,
    Mend: 4,
    Restart: 2,
    PowerCut: 3,
}
COMING_AND_GOING: dict[type[Order], int] = {
    Send: 12,
    Settle: 14,
    Close: 9,
    Fork: 12,
    Rewind: 5,
    Checkpoint: 1,
    Read: 2,
    Export: 6,
    Import: 7,
    Expire: 9,
    Sweep: 2,
    Watch: 5,
    Look: 2,
    Create: 1,
    Step: 6,
    Hold: 2,
    Release: 4,
    Leave: 1,
    Restart: 1,
    PowerCut: 3,
}
"""In so long a story whole families come and go."""


def drawn(weights: dict[type[Order], int]) -> Build:
    return st.sampled_from([kind for kind, weight in weights.items() for _ in range(weight)]).flatmap(
        BUILDS.__getitem__
    )


stories = st.sampled_from([drawn(ALL), drawn(COMING_AND_GOING)]).flatmap(
    lambda orders: st.lists(st.lists(orders, max_size=4), min_size=8, max_size=40)
)
"""Moments may be empty: so a story that is long enough to get somewhere can still be made small."""
