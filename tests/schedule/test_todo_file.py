"""Tests of read_todo_file: the lines of an agent's .todo file, and other things at its path."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from walrusd.schedule.heartbeat_prompt import PendingWork
from walrusd.schedule.todo_file import MAX_TODO_BYTES, TodoUnreadable, read_todo_file


@pytest.fixture
def todo(tmp_path: Path) -> Path:
    return tmp_path / "clerk.todo"


def write_todo(todo: Path, text: bytes) -> None:
    todo.write_bytes(text)


async def read_todo(todo: Path) -> PendingWork | None:
    return await read_todo_file(str(todo.parent), "clerk")


async def test_the_lines_of_the_file_are_pending_work(todo: Path) -> None:
    write_todo(todo, b"\n- mend the roof\n- pay the baker\n\n")
    assert await read_todo(todo) == PendingWork(f"Things to do, from {todo}:", "- mend the roof\n- pay the baker")


@pytest.mark.parametrize("text", [None, "", " \n\n"])
async def test_without_lines_there_is_no_pending_work(todo: Path, text: str | None) -> None:
    if text is not None:
        write_todo(todo, text.encode())
    assert await read_todo(todo) is None


async def test_a_long_file_is_truncated_with_a_note_and_invalid_utf8_is_replaced(todo: Path) -> None:
    write_todo(todo, b"\xff" + b"x" * 2 * MAX_TODO_BYTES)
    found = await read_todo(todo)
    assert found
    assert (
        found.text
        == "\ufffd" + "x" * (MAX_TODO_BYTES - 1) + f"\n[Truncated: these are the first {MAX_TODO_BYTES:,} bytes.]"
    )


def make_pipe(todo: Path) -> None:
    os.mkfifo(todo)


def make_endless_file(todo: Path) -> None:
    todo.symlink_to("/dev/zero")


def make_folder(todo: Path) -> None:
    todo.mkdir()


def make_link_loop(todo: Path) -> None:
    todo.symlink_to(todo)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_pipe, "it is not a regular file"),
        (make_endless_file, "it is not a regular file"),
        (make_folder, "Is a directory"),
        (make_link_loop, "Too many levels of symbolic links"),
    ],
)
async def test_a_path_that_is_not_a_regular_file_is_reported_and_not_waited_for(
    todo: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(todo)
    with pytest.raises(TodoUnreadable) as unreadable:
        await read_todo(todo)
    assert str(unreadable.value) == f"{todo} cannot be read: {reason}"
