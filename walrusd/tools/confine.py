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

from walrusd.host.filesystem import shows_the_kernel
from walrusd.ports import ToolFailed

NAMES_SEEN = 2_000
"""Of a folder, for its listing and for near names: one with millions must not hold the answer up."""
NAMES_SHOWN = 50

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
# Non-blocking, for by the time it is opened the file may have become a FIFO that nobody writes to.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Place(Struct, frozen=True, kw_only=True):
    """Where a path leads: from / through the workspace's `root` and then `inside` it; no link was among them."""

    path: str
    """As the model wrote it."""
    root: tuple[str, ...]
    inside: tuple[str, ...]


def resolve(workspace: str, path: str) -> Place:
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
    return Place(path=path, root=root.parts[1:], inside=real.relative_to(root).parts)


@contextmanager
def opened(place: Place, home: str) -> Iterator[int]:
    """A descriptor of the regular file at `place`, for reading. Raises ToolFailed.

    `home` is the walrus home, which stays shut but for workspace/ in it.
    """
    with ExitStack() as held:
        try:
            file = _walk(place, home, held)
        except PermissionError:
            raise ToolFailed(
                f"{place.path} may not be read: permission denied. Only the user can change that."
            ) from None
        except OSError as error:
            raise ToolFailed(f"{place.path} cannot be read: {error.strerror}.") from error
        yield file


def _walk(place: Place, home: str, held: ExitStack) -> int:
    def hold(descriptor: int) -> int:
        held.callback(os.close, descriptor)
        return descriptor

    shut = os.stat(home)
    folder = hold(os.open("/", _FOLDER))
    *way, name = place.root + place.inside or (".",)
    for depth, step in enumerate(way):
        _stay_out(shut, folder, step, place)
        try:
            folder = hold(os.open(step, _FOLDER, dir_fd=folder))
        except FileNotFoundError:
            raise _missing(place, folder, depth, step) from None
        except NotADirectoryError:
            raise ToolFailed(f"{place.path} cannot be read: {step} is no folder.") from None
    _stay_out(shut, folder, name, place)
    try:
        _expect_file(os.stat(name, dir_fd=folder, follow_symlinks=False), shut, folder, name, place)
        file = hold(os.open(name, _FILE, dir_fd=folder))
    except FileNotFoundError:
        raise _missing(place, folder, len(way), name) from None
    _expect_file(os.fstat(file), shut, folder, name, place)  # it may be another than the one that was looked at
    if shows_the_kernel(file):
        raise ToolFailed(f"{place.path} is a view of a process or of the kernel; those are not read.")
    return file


def _stay_out(home: os.stat_result, folder: int, name: str, place: Place) -> None:
    if os.path.samestat(os.fstat(folder), home) and name != "workspace":
        raise ToolFailed(f"{place.path} is in the home of walrusd itself, which you cannot read.")


def _expect_file(found: os.stat_result, home: os.stat_result, folder: int, name: str, place: Place) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISLNK(found.st_mode):
        raise ToolFailed(f"{place.path} is a loop of symbolic links, or was changed while it was opened.")
    if not stat.S_ISDIR(found.st_mode):
        raise ToolFailed(f"{place.path} is a device, a pipe or a socket: there is no text to read in it.")
    if os.path.samestat(found, home):
        raise ToolFailed(f"{place.path} is the home of walrusd itself, which you cannot read.")
    names = _names(name, folder)
    shown = f"It has: {_few(names)}." if names else "It is empty, or cannot be listed."
    raise ToolFailed(f"{place.path} is a folder; give the path of a file. {shown}")


def _missing(place: Place, folder: int, depth: int, name: str) -> ToolFailed:
    if depth < len(place.root):
        return ToolFailed(f"Your workspace /{'/'.join(place.root)} does not exist. Only the user can make it.")
    names = _names(".", folder)
    where = "/".join(place.inside[: depth - len(place.root)]) or "the workspace"
    if near := difflib.get_close_matches(name, names, n=3):
        return ToolFailed(f"There is no {place.path}. Near names in {where}: {', '.join(near)}.")
    return ToolFailed(f"There is no {place.path}. " + (f"In {where} are: {_few(names)}." if names else ""))


def _names(name: str, folder: int) -> list[str]:
    """What is in the folder `name`, which is in `folder`; nothing where it may not be listed."""
    try:
        listed = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return []
    try:
        with os.scandir(listed) as entries:
            seen = islice(entries, NAMES_SEEN)
            return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in seen)
    finally:
        os.close(listed)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
