"""What the machine may be told to do, as values: hypothesis draws a story of them, prints it and makes it smaller.

A story is a list of moments. The orders of one moment are carried out at once, in an order that is trio's to choose;
then the machine lets everything come to rest and checks.
"""

from typing import Literal

from hypothesis import strategies as st
from msgspec import Struct

from walrus_protocol.content import WhenBusy
from walrusd.session.mend import OnRestart


class Create(Struct, frozen=True):
    key: str | None


class Send(Struct, frozen=True):
    """`session` and its like count those there are, round and round. `other`: with another text than the key's own."""

    session: int
    when_busy: WhenBusy
    key: str | None
    other: bool
    timeout_s: float | None
    stream: bool


class Interrupt(Struct, frozen=True):
    session: int


class Close(Struct, frozen=True):
    session: int
    force: bool


class Resume(Struct, frozen=True):
    """Somebody has the agent go on by hand."""

    session: int


class Fork(Struct, frozen=True):
    """`at` counts the seqs that there are and one that is not, round and round; without it, from the end."""

    session: int
    at: int | None


class Rewind(Struct, frozen=True):
    session: int
    at: int


class Checkpoint(Struct, frozen=True):
    session: int
    name: str


class Read(Struct, frozen=True):
    """Somebody looks at the whole conversation."""

    session: int


class Evict(Struct, frozen=True):
    """So long, and no longer, sessions stay in memory that nobody uses."""

    idle_s: float


class Attach(Struct, frozen=True):
    """A reader behind any seq there is. An idle one looks only when its session is asked to `Look`."""

    session: int
    since: int
    deltas: bool
    idle: bool


class Look(Struct, frozen=True):
    limit: int


class Leave(Struct, frozen=True):
    """A client goes away: the wait ends, not the turn."""

    client: int


class Speak(Struct, frozen=True):
    """To one of the model calls that wait for a word."""

    call: int
    does: Literal["say", "think", "answer", "say nothing", "call tools", "fail", "crash"]


class Work(Struct, frozen=True):
    """To one of the tool calls under way."""

    call: int
    does: Literal["return", "crash"]


class Settle(Struct, frozen=True):
    """The model and the tools speak by themselves until this moment has come to rest."""

    does: Literal["answer", "call tools"] = "answer"


class Hold(Struct, frozen=True):
    """The store is slow: what is written does not get there, or does while nobody is told.

    As with all `steps`: so many of the scheduler after the orders of its moment have begun.
    """

    where: Literal["before", "after"]
    steps: int


class Release(Struct, frozen=True):
    pass


class Fail(Struct, frozen=True):
    kind: Literal["storage_full", "storage_failed"]
    steps: int


class Mend(Struct, frozen=True):
    pass


class Pass(Struct, frozen=True):
    seconds: float


class Restart(Struct, frozen=True):
    """`on_restart`: what the next life does with the turns that this one leaves open."""

    grace_s: float
    failing: bool
    on_restart: OnRestart = "continue"


class PowerCut(Struct, frozen=True):
    failing: bool
    steps: int
    on_restart: OnRestart = "continue"


Branch = Fork | Rewind | Checkpoint | Read
Order = (
    Branch
    | Create
    | Send
    | Interrupt
    | Close
    | Resume
    | Evict
    | Attach
    | Look
    | Leave
    | Speak
    | Work
    | Settle
    | Hold
    | Release
    | Fail
    | Mend
    | Pass
    | Restart
    | PowerCut
)

some = st.integers(0, 3)
which = st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
"""A session: most of what happens should happen to the same few."""
few = st.integers(0, 12)
either: st.SearchStrategy[OnRestart] = st.sampled_from(["continue", "continue", "close"])
storage = st.sampled_from(["storage_full", "storage_failed"])
builds: list[tuple[int, st.SearchStrategy[Order]]] = [
    (
        24,
        st.builds(
            Send,
            session=which,
            when_busy=st.sampled_from(["queue", "steer", "interrupt", "reject"]),
            key=st.sampled_from([None, None, "k", "l"]),
            other=st.sampled_from([False, False, False, True]),
            timeout_s=st.sampled_from([None, None, 5.0]),
            stream=st.booleans(),
        ),
    ),
    (
        24,
        st.builds(
            Speak,
            call=some,
            does=st.sampled_from(
                ["answer", "answer", "call tools", "call tools", "say", "say", "think", "fail", "say nothing", "crash"]
            ),
        ),
    ),
    (8, st.builds(Work, call=some, does=st.sampled_from(["return", "return", "return", "crash"]))),
    (8, st.builds(Settle, does=st.sampled_from(["answer", "call tools"]))),
    (4, st.builds(Interrupt, session=which)),
    (4, st.builds(Close, session=which, force=st.booleans())),
    (3, st.builds(Resume, session=which)),
    (6, st.builds(Fork, session=which, at=st.none() | st.integers(0, 60))),
    (8, st.builds(Rewind, session=which, at=st.integers(0, 60))),
    (3, st.builds(Checkpoint, session=which, name=st.sampled_from(["a", "b"]))),
    (3, st.builds(Read, session=which)),
    (2, st.builds(Evict, idle_s=st.sampled_from([0.01, 600.0]))),
    (4, st.builds(Attach, session=which, since=st.integers(0, 60), deltas=st.booleans(), idle=st.booleans())),
    (2, st.builds(Look, limit=st.sampled_from([1, 3, 512]))),
    (2, st.builds(Leave, client=some)),
    (2, st.builds(Create, key=st.sampled_from([None, "k"]))),
    (6, st.builds(Pass, seconds=st.sampled_from([0.3, 6.0, 40.0]))),
    (5, st.builds(Hold, where=st.sampled_from(["before", "after"]), steps=few)),
    (5, st.builds(Release)),
    (3, st.builds(Fail, kind=storage, steps=few)),
    (4, st.builds(Mend)),
    (2, st.builds(Restart, grace_s=st.sampled_from([0.0, 5.0]), failing=st.booleans(), on_restart=either)),
    (3, st.builds(PowerCut, failing=st.booleans(), steps=few, on_restart=either)),
]
orders = st.sampled_from([build for weight, build in builds for _ in range(weight)]).flatmap(lambda build: build)
stories = st.lists(st.lists(orders, max_size=4), min_size=8, max_size=40)
"""Moments may be empty: so a story that is long enough to get somewhere can still be made small."""
