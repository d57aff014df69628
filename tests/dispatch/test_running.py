"""Running output is told at once and then joined, and a flood of it is cut."""

import trio
from trio.testing import MockClock

from walrusd.dispatch.running import MOST, RunningOutput


async def test_the_first_word_is_told_at_once_and_what_follows_is_joined(autojump_clock: MockClock) -> None:
    told: list[tuple[float, str]] = []
    began = trio.current_time()
    running = RunningOutput(lambda text: told.append((round(trio.current_time() - began, 2), text)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.tell)
        await trio.sleep(1)
        for word in ("one ", "two ", "three"):
            running.hear(word)
            await trio.sleep(0.04)
        await trio.sleep(5)
        running.hear("")
        running.hear("late")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    running.tell_now()
    assert told == [(1.0, "one "), (1.1, "two three"), (6.12, "late")]


async def test_of_a_flood_as_much_is_told_as_can_be_read(autojump_clock: MockClock) -> None:
    told: list[str] = []
    running = RunningOutput(told.append)
    for _ in range(100):
        running.hear("y\n" * 1000)
    running.tell_now()
    running.hear("calm again")
    running.tell_now()
    assert told == ["y\n" * (MOST // 2) + "\n[183,616 characters are left out here]\n", "calm again"]
    await trio.lowlevel.checkpoint()
