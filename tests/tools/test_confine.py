"""What `read` will not open, whatever leads there: links, races, the walrus home, processes, pipes."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dispatch.doubles import Counter
from tests.tools.desk import Desk, passing_desk
from walrusd.ports import ToolFailed
from walrusd.tools.confine import opened, resolve
from walrusd.tools.files import Read


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../outside/secret",
        "{outside}/secret",
        "{outside}/nothing",
        "..",
        "/",
        "/etc/passwd",
        "/proc/self/environ",
        "a/../../outside/secret",
        "{workspace}2/secret",
        "out/secret",
        "absolute",
        "chain",
        "/proc/self/root{outside}/secret",
    ],
)
async def test_what_is_outside_is_refused_whether_it_exists_or_not(desk: Desk, path: str) -> None:
    (desk.workspace / "out").symlink_to("../outside")
    (desk.workspace / "absolute").symlink_to(desk.outside / "secret")
    (desk.workspace / "chain").symlink_to("absolute")
    path = path.format(outside=desk.outside, workspace=desk.workspace)
    assert await desk.refusal(path) == (
        f"{path} is outside your workspace {desk.workspace}; only what is inside it can be read."
    )


async def test_links_that_stay_inside_are_followed(desk: Desk) -> None:
    (desk.workspace / "deep").mkdir()
    (desk.workspace / "deep" / "file").write_text("text")
    (desk.workspace / "relative").symlink_to("deep/file")
    (desk.workspace / "absolute").symlink_to(desk.workspace / "deep")
    (desk.outside / "back").symlink_to(desk.workspace)
    (desk.workspace / "round").symlink_to(desk.outside / "back" / "deep")
    for path in ("relative", "absolute/file", "round/file", desk.outside / "back" / "deep" / "file"):
        assert (await desk.read(path)).output == "text"


async def test_a_workspace_that_is_a_link_is_the_folder_it_leads_to(desk: Desk, tmp_path: Path) -> None:
    (desk.workspace / "file").write_text("text")
    (tmp_path / "link").symlink_to("work")
    assert (await desk.read("file", workspace=tmp_path / "link")).output == "text"
    assert (await desk.read(tmp_path / "link" / "file", workspace=tmp_path / "link")).output == "text"
    assert "outside your workspace" in await desk.refusal("../outside/secret", workspace=tmp_path / "link")


async def test_links_that_lead_nowhere_are_told(desk: Desk) -> None:
    (desk.workspace / "loop").symlink_to("loop")
    (desk.workspace / "dangling").symlink_to("gone")
    assert "loop of symbolic links" in await desk.refusal("loop")
    assert await desk.refusal("dangling") == "There is no dangling. In the workspace are: dangling, loop."


async def test_a_chain_of_links_without_end_is_refused(desk: Desk) -> None:
    for n in range(2000):
        (desk.workspace / f"{n}").symlink_to(f"{n + 1}")
    assert (await desk.read("0")).outcome == "error"


async def test_what_is_no_path_is_refused(desk: Desk) -> None:
    assert await desk.refusal("a\0b") == r"'a\x00b' cannot be a file's path."
    assert "name too long" in await desk.refusal("x" * 300)


async def test_a_missing_workspace_is_told(desk: Desk, tmp_path: Path) -> None:
    assert await desk.refusal("x", workspace=tmp_path / "gone") == (
        f"Your workspace {tmp_path}/gone does not exist. Only the user can make it."
    )
    counter = Counter(Read(str(desk.home)), workspace="")
    assert (await counter.call("read", {"path": "x"})).output == "You have no workspace, and so no files."


async def test_pipes_sockets_and_devices_are_refused_unopened(desk: Desk) -> None:
    os.mkfifo(desk.workspace / "pipe")
    (desk.workspace / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(desk.workspace / "socket"))
        for name in ("pipe", "socket"):
            assert await desk.refusal(name) == (
                f"{name} is a device, a pipe or a socket: there is no text to read in it."
            )
    assert "device" in await desk.refusal("/dev/zero", workspace=Path("/"))


async def test_processes_and_the_kernel_are_not_read_even_where_all_is_workspace(desk: Desk) -> None:
    for path in ("/proc/self/environ", "proc/self/maps", f"/proc/{os.getppid()}/environ", "/proc/thread-self/status"):
        assert await desk.refusal(path, workspace=Path("/")) == (
            f"{path} is a view of a process or of the kernel; those are not read."
        )
    key = os.open(desk.home / "walrus.toml", os.O_RDONLY)
    try:
        for path in (f"/proc/self/fd/{key}", f"/dev/fd/{key}"):
            assert "home of walrusd" in await desk.refusal(path, workspace=Path("/"))
    finally:
        os.close(key)


async def test_the_walrus_home_is_shut_but_for_its_workspace(desk: Desk, tmp_path: Path) -> None:
    (desk.home / "workspace").mkdir()
    (desk.home / "workspace" / "file").write_text("text")
    (desk.home / "agents").mkdir()
    (desk.home / "agents" / "a.md").touch()
    (desk.workspace / "link").symlink_to(desk.home)
    for workspace in (tmp_path, desk.home, Path("/")):
        assert (await desk.read(desk.home / "workspace" / "file", workspace=workspace)).output == "text"
        for path in ("walrus.toml", "agents/a.md", "nothing", "agents", ".", "workspace/../walrus.toml"):
            assert "home of walrusd itself, which you cannot read" in await desk.refusal(
                desk.home / path, workspace=workspace
            )
    assert "home of walrusd" in await desk.refusal(desk.home / "agents/a.md", workspace=desk.home / "agents")
    assert "home of walrusd" in await desk.refusal(desk.workspace / "link" / "walrus.toml", workspace=tmp_path)
    assert (await desk.read("file", workspace=desk.home / "workspace")).output == "text"
    assert "outside your workspace" in await desk.refusal("../walrus.toml", workspace=desk.home / "workspace")


async def test_a_walrus_home_under_another_name_is_still_shut(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("walrus")
    counter = Counter(Read(str(tmp_path / "alias")), workspace=str(tmp_path))
    assert "home of walrusd" in (await counter.call("read", {"path": "walrus/walrus.toml"})).output


@pytest.mark.parametrize("swapped", ["folder", "folder/file"])
def test_a_link_swapped_in_after_the_look_is_not_followed(desk: Desk, swapped: str) -> None:
    (desk.workspace / "folder").mkdir()
    (desk.workspace / "folder" / "file").write_text("text")
    place = resolve(str(desk.workspace), "folder/file")
    os.rename(desk.workspace / swapped, desk.workspace / "old")
    (desk.workspace / swapped).symlink_to(desk.outside if swapped == "folder" else desk.outside / "secret")
    (desk.outside / "file").write_text("the secret")
    with pytest.raises(ToolFailed, match=r"is no folder|was changed"), opened(place, str(desk.home)):
        pass


async def test_a_racing_swap_never_shows_what_is_outside(desk: Desk) -> None:
    (desk.workspace / "real").mkdir()
    (desk.workspace / "real" / "secret").write_text("text")
    (desk.workspace / "link").symlink_to(desk.outside)
    done = threading.Event()

    def swap() -> None:
        spot, real, link = (desk.workspace / name for name in ("spot", "real", "link"))
        while not done.is_set():
            for folder in (real, link):
                os.rename(folder, spot)
                os.rename(spot, folder)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        shown = {(await desk.read("spot/secret")).output for _ in range(500)}
    finally:
        done.set()
        swapper.join()
    assert "the secret" not in shown


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, which would open every file; for others nothing changes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_may_not_be_read_is_told_to_be_so() -> None:
    with passing_desk() as desk:
        (desk.workspace / "file").touch(0)
        with as_nobody():
            told = await desk.refusal("file")
    assert told == "file may not be read: permission denied. Only the user can change that."


names = st.sampled_from(["a", "b", "c", "work", "walrus", "outside", "workspace", "..", "."])
routes = st.lists(names, min_size=1, max_size=4).map("/".join)
things = st.one_of(
    st.tuples(st.just("file"), routes),
    st.tuples(st.just("folder"), routes),
    st.tuples(st.sampled_from(["link", "absolute link"]), routes, routes),
)


def plant(base: Path, thing: tuple[str, ...]) -> None:
    """Make it, if it can be made and lies in `base`. A file says where it truly is."""
    kind, route = thing[0], base / thing[1]
    real = Path(os.path.realpath(route))
    if not real.is_relative_to(base):
        return
    try:
        if kind == "folder":
            route.mkdir(parents=True)
        elif kind == "file":
            route.parent.mkdir(parents=True, exist_ok=True)
            with open(route, "x") as file:
                file.write(str(real))
        else:
            os.symlink(base / thing[2] if kind == "absolute link" else thing[2], route)
    except OSError:
        pass  # taken, or on the way is a file or a loop


def may_be_shown(desk: Desk, root: Path, real: Path) -> bool:
    shut = real.is_relative_to(desk.home) and not real.is_relative_to(desk.home / "workspace")
    return real.is_relative_to(os.path.realpath(root)) and not shut


def must_be_shown(desk: Desk, root: Path, path: str) -> str | None:
    """The text of what the kernel finds at `path`, if it may be shown."""
    try:
        with open(root / path) as file:
            real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
            return file.read() if may_be_shown(desk, root, real) else None
    except OSError:
        return None


@settings(max_examples=250)
@given(
    st.lists(things, max_size=14),
    routes,
    st.booleans(),
    st.sampled_from(["", "work", "walrus", "walrus/workspace"]),
)
async def test_whatever_the_tree_a_read_shows_what_is_inside_and_nothing_else(
    tree: list[tuple[str, ...]], route: str, absolute: bool, workspace: str
) -> None:
    with passing_desk() as desk:
        base = desk.home.parent
        (desk.home / "workspace").mkdir()
        for thing in tree:
            plant(base, thing)
        path = f"{base}/{route}" if absolute else route
        result = await desk.read(path, workspace=base / workspace)
        if (text := must_be_shown(desk, base / workspace, path)) is not None:
            assert (result.outcome, result.output) == ("ok", text)
        elif result.outcome == "ok":  # as "missing/../file" may be: it is more than the kernel opens, yet inside
            assert may_be_shown(desk, base / workspace, Path(result.output))
        else:
            assert result.outcome == "error"
            assert "the secret" not in result.output
            assert "the key" not in result.output
