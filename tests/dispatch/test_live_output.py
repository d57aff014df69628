"""Running output is told at once and then joined, and a flood of it is cut."""

import trio
from trio.testing import MockClock

from walrusd.dispatch.live_output import MAX_CHARS, LiveOutput


async def test_the_first_output_is_sent_at_once_and_later_output_is_joined(autojump_clock: MockClock) -> None:
    told: list[tuple[float, str]] = []
    began = trio.current_time()
    running = LiveOutput(lambda text: told.append((round(trio.current_time() - began, 2), text)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(1)
        for word in ("one ", "two ", "three"):
            running.add(word)
            await trio.sleep(0.04)
        await trio.sleep(5)
        running.add("")
        running.add("late")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    running.flush()
    assert told == [(1.0, "one "), (1.1, "two three"), (6.12, "late")]


async def test_of_a_flood_only_a_readable_amount_is_sent(autojump_clock: MockClock) -> None:
    told: list[str] = []
    running = LiveOutput(told.append)
    for _ in range(100):
        running.add("y\n" * 1000)
    running.flush()
    running.add("calm again")
    running.flush()
    assert told == ["y\n" * (MAX_CHARS // 2) + "\n[183,616 characters are left out here]\n", "calm again"]
    await trio.lowlevel.checkpoint()
