"""Opens files for a model: only inside its workspace, links resolved, and never in the walrus home.

A path is resolved first. Then it is walked from / down, folder by folder, without following links: a folder that was
replaced by a link in between is refused. The walrus home is recognised by its inode, whatever path leads to it.
"""

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from msgspec import Struct

from walrusd.host.libc import is_kernel_filesystem
from walrusd.ports import ToolFailed

MAX_NAMES_READ = 2_000
"""Maximum names read of a folder: a folder with millions must not delay the answer."""
MAX_NAMES_SHOWN = 50
"""Maximum names of a folder that are shown to a model."""

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
# Non-blocking, because the file may have been replaced by a FIFO without a writer before it is opened.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class ResolvedPath(Struct, frozen=True, kw_only=True):
    """A path with its links resolved: the parts of the workspace's `root`, and those `relative` to it."""

    path: str
    """The path as the model wrote it."""
    root: tuple[str, ...]
    relative: tuple[str, ...]


def resolve_path(workspace: str, path: str) -> ResolvedPath:
    """Resolves a path. Raises ToolFailed if it is outside the workspace, whether it exists or not."""
    if not workspace:
        raise ToolFailed("You have no workspace, so there are no files to read.")
    try:
        root = Path(os.path.realpath(workspace))
        real = Path(os.path.realpath(root / path))
    except (ValueError, RecursionError):  # a NUL, text that a file name cannot hold, or too many links
        raise ToolFailed(f"{path!r} is not a valid path.") from None
    if not real.is_relative_to(root):
        raise ToolFailed(f"{path} is outside your workspace {root}; only files inside it can be read.")
    return ResolvedPath(path=path, root=root.parts[1:], relative=real.relative_to(root).parts)


@contextmanager
def open_confined(resolved: ResolvedPath, home: str) -> Iterator[int]:
    """Yields a read descriptor of the regular file at `resolved`. Raises ToolFailed.

    `home` is the walrus home; only workspace/ in it can be opened.
    """
    with ExitStack() as stack:
        try:
            file = _open_beneath(resolved, home, stack)
        except PermissionError:
            raise ToolFailed(
                f"{resolved.path} cannot be read: permission denied. Only the user can change that."
            ) from None
        except OSError as error:
            raise ToolFailed(f"{resolved.path} cannot be read: {error.strerror}.") from error
        yield file


def _open_beneath(resolved: ResolvedPath, home: str, stack: ExitStack) -> int:
    """Opens the file by walking down from /; `stack` closes every descriptor."""

    def close_later(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        return descriptor

    home_stat = os.stat(home)
    folder = close_later(os.open("/", _FOLDER_FLAGS))
    *parents, name = resolved.root + resolved.relative or (".",)
    for depth, part in enumerate(parents):
        _refuse_home(home_stat, folder, part, resolved)
        try:
            folder = close_later(os.open(part, _FOLDER_FLAGS, dir_fd=folder))
        except FileNotFoundError:
            raise _not_found(resolved, folder, depth, part) from None
        except NotADirectoryError:
            raise ToolFailed(f"{resolved.path} cannot be read: {part} is not a folder.") from None
    _refuse_home(home_stat, folder, name, resolved)
    try:
        _check_regular_file(os.stat(name, dir_fd=folder, follow_symlinks=False), home_stat, folder, name, resolved)
        file = close_later(os.open(name, _FILE_FLAGS, dir_fd=folder))
    except FileNotFoundError:
        raise _not_found(resolved, folder, len(parents), name) from None
    # Checked again: the file may have been replaced between the check and the open.
    _check_regular_file(os.fstat(file), home_stat, folder, name, resolved)
    if is_kernel_filesystem(file):
        raise ToolFailed(f"{resolved.path} is in a file system of the kernel (such as /proc); it cannot be read.")
    return file


def _refuse_home(home: os.stat_result, folder: int, name: str, resolved: ResolvedPath) -> None:
    if os.path.samestat(os.fstat(folder), home) and name != "workspace":
        raise ToolFailed(f"{resolved.path} is in walrusd's own home, which you cannot read.")


def _check_regular_file(
    found: os.stat_result, home: os.stat_result, folder: int, name: str, resolved: ResolvedPath
) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISLNK(found.st_mode):
        raise ToolFailed(f"{resolved.path} is a loop of symbolic links, or was replaced while it was opened.")
    if not stat.S_ISDIR(found.st_mode):
        raise ToolFailed(f"{resolved.path} is a device, a pipe or a socket, which has no text to read.")
    if os.path.samestat(found, home):
        raise ToolFailed(f"{resolved.path} is walrusd's own home, which you cannot read.")
    names = _list_names(name, folder)
    listing = f"It contains: {_join_names(names)}." if names else "It is empty, or cannot be listed."
    raise ToolFailed(f"{resolved.path} is a folder; give the path of a file. {listing}")


def _not_found(resolved: ResolvedPath, folder: int, depth: int, name: str) -> ToolFailed:
    if depth < len(resolved.root):
        return ToolFailed(f"Your workspace /{'/'.join(resolved.root)} does not exist. Only the user can create it.")
    names = _list_names(".", folder)
    where = "/".join(resolved.relative[: depth - len(resolved.root)]) or "the workspace"
    if near := difflib.get_close_matches(name, names, n=3):
        return ToolFailed(f"{resolved.path} does not exist. Similar names in {where}: {', '.join(near)}.")
    return ToolFailed(
        f"{resolved.path} does not exist. " + (f"Names in {where}: {_join_names(names)}." if names else "")
    )


def _list_names(name: str, folder: int) -> list[str]:
    """Returns the sorted names in the folder `name` below `folder`, or nothing if it cannot be listed."""
    try:
        listed = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return []
    try:
        with os.scandir(listed) as entries:
            read = islice(entries, MAX_NAMES_READ)
            return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in read)
    finally:
        os.close(listed)


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
