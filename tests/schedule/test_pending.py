"""What waits for an agent: the lines of its .todo file, whatever stands in their place."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from walrusd.schedule.pending import MOST, TodoFile, Unreadable
from walrusd.schedule.wording import Pending


@pytest.fixture
def todo(tmp_path: Path) -> Path:
    return tmp_path / "clerk.todo"


def write(todo: Path, text: bytes) -> None:
    todo.write_bytes(text)


async def pending(todo: Path) -> Pending | None:
    return await TodoFile(str(todo.parent)).pending("clerk")


async def test_the_lines_of_the_file_wait(todo: Path) -> None:
    write(todo, b"\n- mend the roof\n- pay the baker\n\n")
    assert await pending(todo) == Pending(f"Things to do, from {todo}:", "- mend the roof\n- pay the baker")


@pytest.mark.parametrize("text", [None, "", " \n\n"])
async def test_without_lines_nothing_waits(todo: Path, text: str | None) -> None:
    if text is not None:
        write(todo, text.encode())
    assert await pending(todo) is None


async def test_a_long_file_is_cut_and_says_so_and_odd_bytes_are_no_obstacle(todo: Path) -> None:
    write(todo, b"\xff" + b"x" * 2 * MOST)
    found = await pending(todo)
    assert found
    assert found.text == "\ufffd" + "x" * (MOST - 1) + f"\n[The rest is left out: these are the first {MOST:,} bytes.]"


def pipe(todo: Path) -> None:
    os.mkfifo(todo)


def endless(todo: Path) -> None:
    todo.symlink_to("/dev/zero")


def folder(todo: Path) -> None:
    todo.mkdir()


def circle(todo: Path) -> None:
    todo.symlink_to(todo)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pipe, "it is not a regular file"),
        (endless, "it is not a regular file"),
        (folder, "Is a directory"),
        (circle, "Too many levels of symbolic links"),
    ],
)
async def test_what_is_no_file_is_said_and_not_waited_for(todo: Path, make: Callable[[Path], None], said: str) -> None:
    make(todo)
    with pytest.raises(Unreadable) as unreadable:
        await pending(todo)
    assert str(unreadable.value) == f"{todo} cannot be read: {said}"
