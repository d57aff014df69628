"""Opening a file for a model: inside its workspace once symbolic links are resolved, and never in the walrus home.

A path is resolved first and then walked from / down, folder by folder, following no link: what is swapped in
between is refused, not followed. The walrus home is known by its inode, whatever name leads to it.
"""

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from msgspec import Struct

from walrusd.host.pseudo_filesystems import is_kernel_filesystem
from walrusd.ports import ToolFailed

MAX_NAMES_READ = 2_000
"""Of a folder, for its listing and for near names: one with millions must not hold the answer up."""
MAX_NAMES_SHOWN = 50

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
# Non-blocking, for by the time it is opened the file may have become a FIFO that nobody writes to.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class ResolvedPath(Struct, frozen=True, kw_only=True):
    """Where a path leads: from / through the workspace's `root` and then `inside` it; no link was among them."""

    path: str
    """As the model wrote it."""
    root: tuple[str, ...]
    relative: tuple[str, ...]


def resolve_path(workspace: str, path: str) -> ResolvedPath:
    """Raises ToolFailed for what is outside the workspace, whether it exists or not."""
    if not workspace:
        raise ToolFailed("You have no workspace, and so no files.")
    try:
        root = Path(os.path.realpath(workspace))
        real = Path(os.path.realpath(root / path))
    except (ValueError, RecursionError):  # a NUL, text that no file name can hold, or links without end
        raise ToolFailed(f"{path!r} cannot be a file's path.") from None
    if not real.is_relative_to(root):
        raise ToolFailed(f"{path} is outside your workspace {root}; only what is inside it can be read.")
    return ResolvedPath(path=path, root=root.parts[1:], relative=real.relative_to(root).parts)


@contextmanager
def open_confined(resolved: ResolvedPath, home: str) -> Iterator[int]:
    """A descriptor of the regular file at `place`, for reading. Raises ToolFailed.

    `home` is the walrus home, which stays shut but for workspace/ in it.
    """
    with ExitStack() as held:
        try:
            file = _open_beneath(resolved, home, held)
        except PermissionError:
            raise ToolFailed(
                f"{resolved.path} may not be read: permission denied. Only the user can change that."
            ) from None
        except OSError as error:
            raise ToolFailed(f"{resolved.path} cannot be read: {error.strerror}.") from error
        yield file


def _open_beneath(resolved: ResolvedPath, home: str, stack: ExitStack) -> int:
    def hold(descriptor: int) -> int:
        stack.callback(os.close, descriptor)
        return descriptor

    shut = os.stat(home)
    folder = hold(os.open("/", _FOLDER_FLAGS))
    *way, name = resolved.root + resolved.relative or (".",)
    for depth, step in enumerate(way):
        _refuse_home(shut, folder, step, resolved)
        try:
            folder = hold(os.open(step, _FOLDER_FLAGS, dir_fd=folder))
        except FileNotFoundError:
            raise _not_found(resolved, folder, depth, step) from None
        except NotADirectoryError:
            raise ToolFailed(f"{resolved.path} cannot be read: {step} is no folder.") from None
    _refuse_home(shut, folder, name, resolved)
    try:
        _check_regular_file(os.stat(name, dir_fd=folder, follow_symlinks=False), shut, folder, name, resolved)
        file = hold(os.open(name, _FILE_FLAGS, dir_fd=folder))
    except FileNotFoundError:
        raise _not_found(resolved, folder, len(way), name) from None
    _check_regular_file(
        os.fstat(file), shut, folder, name, resolved
    )  # it may be another than the one that was looked at
    if is_kernel_filesystem(file):
        raise ToolFailed(f"{resolved.path} is a view of a process or of the kernel; those are not read.")
    return file


def _refuse_home(home: os.stat_result, folder: int, name: str, resolved: ResolvedPath) -> None:
    if os.path.samestat(os.fstat(folder), home) and name != "workspace":
        raise ToolFailed(f"{resolved.path} is in the home of walrusd itself, which you cannot read.")


def _check_regular_file(
    found: os.stat_result, home: os.stat_result, folder: int, name: str, resolved: ResolvedPath
) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISLNK(found.st_mode):
        raise ToolFailed(f"{resolved.path} is a loop of symbolic links, or was changed while it was opened.")
    if not stat.S_ISDIR(found.st_mode):
        raise ToolFailed(f"{resolved.path} is a device, a pipe or a socket: there is no text to read in it.")
    if os.path.samestat(found, home):
        raise ToolFailed(f"{resolved.path} is the home of walrusd itself, which you cannot read.")
    names = _list_names(name, folder)
    shown = f"It has: {_join_names(names)}." if names else "It is empty, or cannot be listed."
    raise ToolFailed(f"{resolved.path} is a folder; give the path of a file. {shown}")


def _not_found(resolved: ResolvedPath, folder: int, depth: int, name: str) -> ToolFailed:
    if depth < len(resolved.root):
        return ToolFailed(f"Your workspace /{'/'.join(resolved.root)} does not exist. Only the user can make it.")
    names = _list_names(".", folder)
    where = "/".join(resolved.relative[: depth - len(resolved.root)]) or "the workspace"
    if near := difflib.get_close_matches(name, names, n=3):
        return ToolFailed(f"There is no {resolved.path}. Near names in {where}: {', '.join(near)}.")
    return ToolFailed(f"There is no {resolved.path}. " + (f"In {where} are: {_join_names(names)}." if names else ""))


def _list_names(name: str, folder: int) -> list[str]:
    """What is in the folder `name`, which is in `folder`; nothing where it may not be listed."""
    try:
        listed = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return []
    try:
        with os.scandir(listed) as entries:
            seen = islice(entries, MAX_NAMES_READ)
            return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in seen)
    finally:
        os.close(listed)


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
