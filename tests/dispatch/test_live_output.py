"""Tests of live output: the first is sent at once, later output is joined, and a flood is cut."""

import trio
from trio.testing import MockClock

from walrusd.dispatch.live_output import MAX_CHARS, LiveOutput


async def test_the_first_output_is_sent_at_once_and_later_output_is_joined(autojump_clock: MockClock) -> None:
    sent: list[tuple[float, str]] = []
    began = trio.current_time()
    live = LiveOutput(lambda text: sent.append((round(trio.current_time() - began, 2), text)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        await trio.sleep(1)
        for word in ("one ", "two ", "three"):
            live.add(word)
            await trio.sleep(0.04)
        await trio.sleep(5)
        live.add("")
        live.add("late")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    live.flush()
    assert sent == [(1.0, "one "), (1.1, "two three"), (6.12, "late")]


async def test_only_a_readable_amount_of_a_flood_is_sent(autojump_clock: MockClock) -> None:
    sent: list[str] = []
    live = LiveOutput(sent.append)
    for _ in range(100):
        live.add("y\n" * 1000)
    live.flush()
    live.add("calm again")
    live.flush()
    assert sent == ["y\n" * (MAX_CHARS // 2) + "\n[183,616 characters are omitted here]\n", "calm again"]
    await trio.lowlevel.checkpoint()
