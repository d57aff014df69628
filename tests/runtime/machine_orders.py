"""What the machine may be told to do, as values: hypothesis draws a story of them, prints it and makes it smaller.

A story is a list of moments. The orders of one moment are carried out at once, in an order that is trio's to choose;
then the machine lets everything come to rest and checks.
"""

from typing import Literal

from hypothesis import strategies as st
from msgspec import Struct

from walrus_protocol.content import WhenBusy


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


class Hold(Struct, frozen=True):
    """The store is slow: what is written does not get there, or does while nobody is told."""

    where: Literal["before", "after"]


class Release(Struct, frozen=True):
    pass


class Fail(Struct, frozen=True):
    kind: Literal["storage_full", "storage_failed"]


class Mend(Struct, frozen=True):
    pass


class Pass(Struct, frozen=True):
    seconds: float


class Restart(Struct, frozen=True):
    grace_s: float
    failing: bool


class PowerCut(Struct, frozen=True):
    """`steps` of the scheduler after the orders that came before it in the moment."""

    failing: bool
    steps: int


Order = (
    Create
    | Send
    | Interrupt
    | Close
    | Attach
    | Look
    | Leave
    | Speak
    | Work
    | Hold
    | Release
    | Fail
    | Mend
    | Pass
    | Restart
    | PowerCut
)

some = st.integers(0, 3)
speeches = st.sampled_from(["answer", "call tools", "say", "think", "fail", "say nothing", "crash"])
sends = st.builds(
    Send,
    session=some,
    when_busy=st.sampled_from(["queue", "steer", "interrupt", "reject"]),
    key=st.sampled_from([None, None, "k", "l"]),
    other=st.sampled_from([False, False, False, True]),
    timeout_s=st.sampled_from([None, None, 5.0]),
    stream=st.booleans(),
)
orders: st.SearchStrategy[Order] = st.one_of(
    sends,
    sends,
    st.builds(Speak, call=some, does=speeches),
    st.builds(Speak, call=some, does=speeches),
    st.builds(Work, call=some, does=st.sampled_from(["return", "return", "crash"])),
    st.builds(Interrupt, session=some),
    st.builds(Close, session=some, force=st.booleans()),
    st.builds(Attach, session=some, since=st.integers(0, 60), deltas=st.booleans(), idle=st.booleans()),
    st.builds(Look, limit=st.sampled_from([1, 3, 512])),
    st.builds(Leave, client=some),
    st.builds(Hold, where=st.sampled_from(["before", "after"])),
    st.builds(Release),
    st.builds(Fail, kind=st.sampled_from(["storage_full", "storage_failed"])),
    st.builds(Mend),
    st.builds(Pass, seconds=st.sampled_from([0.3, 6.0, 40.0])),
    st.builds(Restart, grace_s=st.sampled_from([0.0, 5.0]), failing=st.booleans()),
    st.builds(PowerCut, failing=st.booleans(), steps=st.integers(0, 12)),
    st.builds(Create, key=st.sampled_from([None, "k"])),
)
stories = st.lists(st.lists(orders, min_size=1, max_size=4), max_size=25)
