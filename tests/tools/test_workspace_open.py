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

from tests.dispatch.pipeline_harness import PipelineHarness
from tests.tools.read_harness import ReadHarness, world_readable_harness
from walrusd.ports import ToolFailed
from walrusd.tools.files import ReadTool
from walrusd.tools.workspace_open import open_confined, resolve_path


@pytest.fixture
def harness(tmp_path: Path) -> ReadHarness:
    return ReadHarness(tmp_path)


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
async def test_what_is_outside_is_refused_whether_it_exists_or_not(harness: ReadHarness, path: str) -> None:
    (harness.workspace / "out").symlink_to("../outside")
    (harness.workspace / "absolute").symlink_to(harness.outside / "secret")
    (harness.workspace / "chain").symlink_to("absolute")
    path = path.format(outside=harness.outside, workspace=harness.workspace)
    assert await harness.error_text(path) == (
        f"{path} is outside your workspace {harness.workspace}; only what is inside it can be read."
    )


async def test_links_that_stay_inside_are_followed(harness: ReadHarness) -> None:
    (harness.workspace / "deep").mkdir()
    (harness.workspace / "deep" / "file").write_text("text")
    (harness.workspace / "relative").symlink_to("deep/file")
    (harness.workspace / "absolute").symlink_to(harness.workspace / "deep")
    (harness.outside / "back").symlink_to(harness.workspace)
    (harness.workspace / "round").symlink_to(harness.outside / "back" / "deep")
    for path in ("relative", "absolute/file", "round/file", harness.outside / "back" / "deep" / "file"):
        assert (await harness.read(path)).output == "text"


async def test_a_workspace_that_is_a_link_is_the_folder_it_leads_to(harness: ReadHarness, tmp_path: Path) -> None:
    (harness.workspace / "file").write_text("text")
    (tmp_path / "link").symlink_to("work")
    assert (await harness.read("file", workspace=tmp_path / "link")).output == "text"
    assert (await harness.read(tmp_path / "link" / "file", workspace=tmp_path / "link")).output == "text"
    assert "outside your workspace" in await harness.error_text("../outside/secret", workspace=tmp_path / "link")


async def test_links_that_lead_nowhere_are_reported(harness: ReadHarness) -> None:
    (harness.workspace / "loop").symlink_to("loop")
    (harness.workspace / "dangling").symlink_to("gone")
    assert "loop of symbolic links" in await harness.error_text("loop")
    assert await harness.error_text("dangling") == "There is no dangling. In the workspace are: dangling, loop."


async def test_a_chain_of_links_without_end_is_refused(harness: ReadHarness) -> None:
    for n in range(2000):
        (harness.workspace / f"{n}").symlink_to(f"{n + 1}")
    assert (await harness.read("0")).outcome == "error"


async def test_what_is_no_path_is_refused(harness: ReadHarness) -> None:
    assert await harness.error_text("a\0b") == r"'a\x00b' cannot be a file's path."
    assert "name too long" in await harness.error_text("x" * 300)


async def test_a_missing_workspace_is_reported(harness: ReadHarness, tmp_path: Path) -> None:
    assert await harness.error_text("x", workspace=tmp_path / "gone") == (
        f"Your workspace {tmp_path}/gone does not exist. Only the user can make it."
    )
    counter = PipelineHarness(ReadTool(str(harness.home)), workspace="")
    assert (await counter.call("read", {"path": "x"})).output == "You have no workspace, and so no files."


async def test_pipes_sockets_and_devices_are_refused_unopened(harness: ReadHarness) -> None:
    os.mkfifo(harness.workspace / "pipe")
    (harness.workspace / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(harness.workspace / "socket"))
        for name in ("pipe", "socket"):
            assert await harness.error_text(name) == (
                f"{name} is a device, a pipe or a socket: there is no text to read in it."
            )
    assert "device" in await harness.error_text("/dev/zero", workspace=Path("/"))


async def test_kernel_filesystems_are_not_read_even_if_the_workspace_is_the_root(harness: ReadHarness) -> None:
    for path in ("/proc/self/environ", "proc/self/maps", f"/proc/{os.getppid()}/environ", "/proc/thread-self/status"):
        assert await harness.error_text(path, workspace=Path("/")) == (
            f"{path} is a view of a process or of the kernel; those are not read."
        )
    key = os.open(harness.home / "walrus.toml", os.O_RDONLY)
    try:
        for path in (f"/proc/self/fd/{key}", f"/dev/fd/{key}"):
            assert "home of walrusd" in await harness.error_text(path, workspace=Path("/"))
    finally:
        os.close(key)


async def test_the_walrus_home_is_not_readable_except_its_workspace(harness: ReadHarness, tmp_path: Path) -> None:
    (harness.home / "workspace").mkdir()
    (harness.home / "workspace" / "file").write_text("text")
    (harness.home / "agents").mkdir()
    (harness.home / "agents" / "a.md").touch()
    (harness.workspace / "link").symlink_to(harness.home)
    for workspace in (tmp_path, harness.home, Path("/")):
        assert (await harness.read(harness.home / "workspace" / "file", workspace=workspace)).output == "text"
        for path in ("walrus.toml", "agents/a.md", "nothing", "agents", ".", "workspace/../walrus.toml"):
            assert "home of walrusd itself, which you cannot read" in await harness.error_text(
                harness.home / path, workspace=workspace
            )
    assert "home of walrusd" in await harness.error_text(
        harness.home / "agents/a.md", workspace=harness.home / "agents"
    )
    assert "home of walrusd" in await harness.error_text(harness.workspace / "link" / "walrus.toml", workspace=tmp_path)
    assert (await harness.read("file", workspace=harness.home / "workspace")).output == "text"
    assert "outside your workspace" in await harness.error_text("../walrus.toml", workspace=harness.home / "workspace")


async def test_a_walrus_home_under_another_name_is_still_not_readable(harness: ReadHarness, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("walrus")
    counter = PipelineHarness(ReadTool(str(tmp_path / "alias")), workspace=str(tmp_path))
    assert "home of walrusd" in (await counter.call("read", {"path": "walrus/walrus.toml"})).output


@pytest.mark.parametrize("swapped", ["folder", "folder/file"])
def test_a_link_swapped_in_after_the_check_is_not_followed(harness: ReadHarness, swapped: str) -> None:
    (harness.workspace / "folder").mkdir()
    (harness.workspace / "folder" / "file").write_text("text")
    place = resolve_path(str(harness.workspace), "folder/file")
    os.rename(harness.workspace / swapped, harness.workspace / "old")
    (harness.workspace / swapped).symlink_to(harness.outside if swapped == "folder" else harness.outside / "secret")
    (harness.outside / "file").write_text("the secret")
    with pytest.raises(ToolFailed, match=r"is no folder|was changed"), open_confined(place, str(harness.home)):
        pass


async def test_a_racing_swap_never_shows_what_is_outside(harness: ReadHarness) -> None:
    (harness.workspace / "real").mkdir()
    (harness.workspace / "real" / "secret").write_text("text")
    (harness.workspace / "link").symlink_to(harness.outside)
    done = threading.Event()

    def swap() -> None:
        spot, real, link = (harness.workspace / name for name in ("spot", "real", "link"))
        while not done.is_set():
            for folder in (real, link):
                os.rename(folder, spot)
                os.rename(spot, folder)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        shown = {(await harness.read("spot/secret")).output for _ in range(500)}
    finally:
        done.set()
        swapper.join()
    assert "the secret" not in shown


@contextmanager
def without_root() -> Iterator[None]:
    """Without root's rights, which would open every file; for others nothing changes."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_that_may_not_be_read_is_reported_as_such() -> None:
    with world_readable_harness() as desk:
        (desk.workspace / "file").touch(0)
        with without_root():
            told = await desk.error_text("file")
    assert told == "file may not be read: permission denied. Only the user can change that."


names = st.sampled_from(["a", "b", "c", "work", "walrus", "outside", "workspace", "..", "."])
relative_paths = st.lists(names, min_size=1, max_size=4).map("/".join)
tree_entries = st.one_of(
    st.tuples(st.just("file"), relative_paths),
    st.tuples(st.just("folder"), relative_paths),
    st.tuples(st.sampled_from(["link", "absolute link"]), relative_paths, relative_paths),
)


def create_entry(base: Path, entry: tuple[str, ...]) -> None:
    """Make it, if it can be made and lies in `base`. A file says where it truly is."""
    kind, route = entry[0], base / entry[1]
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
            os.symlink(base / entry[2] if kind == "absolute link" else entry[2], route)
    except OSError:
        pass  # taken, or on the way is a file or a loop


def is_readable(harness: ReadHarness, root: Path, real: Path) -> bool:
    shut = real.is_relative_to(harness.home) and not real.is_relative_to(harness.home / "workspace")
    return real.is_relative_to(os.path.realpath(root)) and not shut


def expected_text(harness: ReadHarness, root: Path, path: str) -> str | None:
    """The text of what the kernel finds at `path`, if it may be shown."""
    try:
        with open(root / path) as file:
            real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
            return file.read() if is_readable(harness, root, real) else None
    except OSError:
        return None


@settings(max_examples=250)
@given(
    st.lists(tree_entries, max_size=14),
    relative_paths,
    st.booleans(),
    st.sampled_from(["", "work", "walrus", "walrus/workspace"]),
)
async def test_whatever_the_tree_a_read_shows_what_is_inside_and_nothing_else(
    tree: list[tuple[str, ...]], route: str, absolute: bool, workspace: str
) -> None:
    with world_readable_harness() as desk:
        base = desk.home.parent
        (desk.home / "workspace").mkdir()
        for thing in tree:
            create_entry(base, thing)
        path = f"{base}/{route}" if absolute else route
        result = await desk.read(path, workspace=base / workspace)
        if (text := expected_text(desk, base / workspace, path)) is not None:
            assert (result.outcome, result.output) == ("ok", text)
        elif result.outcome == "ok":  # as "missing/../file" may be: it is more than the kernel opens, yet inside
            assert is_readable(desk, base / workspace, Path(result.output))
        else:
            assert result.outcome == "error"
            assert "the secret" not in result.output
            assert "the key" not in result.output
