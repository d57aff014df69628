"""Tests of what `read` refuses to open: links and races to outside, the walrus home, /proc, pipes."""

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
async def test_a_path_outside_the_workspace_is_refused_whether_it_exists_or_not(
    harness: ReadHarness, path: str
) -> None:
    (harness.workspace / "out").symlink_to("../outside")
    (harness.workspace / "absolute").symlink_to(harness.outside / "secret")
    (harness.workspace / "chain").symlink_to("absolute")
    path = path.format(outside=harness.outside, workspace=harness.workspace)
    assert await harness.error_text(path) == (
        f"{path} is outside your workspace {harness.workspace}; only files inside it can be read."
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


async def test_a_workspace_may_be_a_link_to_a_folder(harness: ReadHarness, tmp_path: Path) -> None:
    (harness.workspace / "file").write_text("text")
    (tmp_path / "link").symlink_to("work")
    assert (await harness.read("file", workspace=tmp_path / "link")).output == "text"
    assert (await harness.read(tmp_path / "link" / "file", workspace=tmp_path / "link")).output == "text"
    assert "outside your workspace" in await harness.error_text("../outside/secret", workspace=tmp_path / "link")


async def test_links_that_lead_nowhere_are_reported(harness: ReadHarness) -> None:
    (harness.workspace / "loop").symlink_to("loop")
    (harness.workspace / "dangling").symlink_to("gone")
    assert "loop of symbolic links" in await harness.error_text("loop")
    assert await harness.error_text("dangling") == "dangling does not exist. Names in the workspace: dangling, loop."


async def test_a_chain_of_too_many_links_is_refused(harness: ReadHarness) -> None:
    for n in range(2000):
        (harness.workspace / f"{n}").symlink_to(f"{n + 1}")
    assert (await harness.read("0")).outcome == "error"


async def test_an_invalid_path_is_refused(harness: ReadHarness) -> None:
    assert await harness.error_text("a\0b") == r"'a\x00b' is not a valid path."
    assert "name too long" in await harness.error_text("x" * 300)


async def test_a_missing_workspace_is_reported(harness: ReadHarness, tmp_path: Path) -> None:
    assert await harness.error_text("x", workspace=tmp_path / "gone") == (
        f"Your workspace {tmp_path}/gone does not exist. Only the user can create it."
    )
    pipeline = PipelineHarness(ReadTool(str(harness.home)), workspace="")
    assert (
        await pipeline.call("read", {"path": "x"})
    ).output == "You have no workspace, so there are no files to read."


async def test_pipes_sockets_and_devices_are_refused_unopened(harness: ReadHarness) -> None:
    os.mkfifo(harness.workspace / "pipe")
    (harness.workspace / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(harness.workspace / "socket"))
        for name in ("pipe", "socket"):
            assert await harness.error_text(name) == (
                f"{name} is a device, a pipe or a socket, which has no text to read."
            )
    assert "device" in await harness.error_text("/dev/zero", workspace=Path("/"))


async def test_kernel_filesystems_are_not_read_even_if_the_workspace_is_the_root(harness: ReadHarness) -> None:
    for path in ("/proc/self/environ", "proc/self/maps", f"/proc/{os.getppid()}/environ", "/proc/thread-self/status"):
        assert await harness.error_text(path, workspace=Path("/")) == (
            f"{path} is in a file system of the kernel (such as /proc); it cannot be read."
        )
    key = os.open(harness.home / "walrus.toml", os.O_RDONLY)
    try:
        for path in (f"/proc/self/fd/{key}", f"/dev/fd/{key}"):
            assert "walrusd's own home" in await harness.error_text(path, workspace=Path("/"))
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
            assert "walrusd's own home, which you cannot read" in await harness.error_text(
                harness.home / path, workspace=workspace
            )
    assert "walrusd's own home" in await harness.error_text(
        harness.home / "agents/a.md", workspace=harness.home / "agents"
    )
    assert "walrusd's own home" in await harness.error_text(
        harness.workspace / "link" / "walrus.toml", workspace=tmp_path
    )
    assert (await harness.read("file", workspace=harness.home / "workspace")).output == "text"
    assert "outside your workspace" in await harness.error_text("../walrus.toml", workspace=harness.home / "workspace")


async def test_a_walrus_home_reached_by_another_name_is_not_readable(harness: ReadHarness, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("walrus")
    pipeline = PipelineHarness(ReadTool(str(tmp_path / "alias")), workspace=str(tmp_path))
    assert "walrusd's own home" in (await pipeline.call("read", {"path": "walrus/walrus.toml"})).output


@pytest.mark.parametrize("swapped", ["folder", "folder/file"])
def test_a_link_swapped_in_after_the_check_is_not_followed(harness: ReadHarness, swapped: str) -> None:
    (harness.workspace / "folder").mkdir()
    (harness.workspace / "folder" / "file").write_text("text")
    resolved = resolve_path(str(harness.workspace), "folder/file")
    os.rename(harness.workspace / swapped, harness.workspace / "old")
    (harness.workspace / swapped).symlink_to(harness.outside if swapped == "folder" else harness.outside / "secret")
    (harness.outside / "file").write_text("the secret")
    with pytest.raises(ToolFailed, match=r"is not a folder|was replaced"), open_confined(resolved, str(harness.home)):
        pass


async def test_a_racing_swap_never_shows_a_file_outside(harness: ReadHarness) -> None:
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
    """Drops root's rights within the block, since root can open every file; other users are unaffected."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_file_without_read_permission_is_reported() -> None:
    with world_readable_harness() as harness:
        (harness.workspace / "file").touch(0)
        with without_root():
            error_text = await harness.error_text("file")
    assert error_text == "file cannot be read: permission denied. Only the user can change that."


names = st.sampled_from(["a", "b", "c", "work", "walrus", "outside", "workspace", "..", "."])
relative_paths = st.lists(names, min_size=1, max_size=4).map("/".join)
tree_entries = st.one_of(
    st.tuples(st.just("file"), relative_paths),
    st.tuples(st.just("folder"), relative_paths),
    st.tuples(st.sampled_from(["link", "absolute link"]), relative_paths, relative_paths),
)


def create_entry(base: Path, entry: tuple[str, ...]) -> None:
    """Creates the entry if it can be created and is in `base`. A file contains its own real path."""
    kind, relative_path = entry[0], base / entry[1]
    real = Path(os.path.realpath(relative_path))
    if not real.is_relative_to(base):
        return
    try:
        if kind == "folder":
            relative_path.mkdir(parents=True)
        elif kind == "file":
            relative_path.parent.mkdir(parents=True, exist_ok=True)
            with open(relative_path, "x") as file:
                file.write(str(real))
        else:
            os.symlink(base / entry[2] if kind == "absolute link" else entry[2], relative_path)
    except OSError:
        pass  # the name exists, or a parent is a file or a loop


def is_readable(harness: ReadHarness, root: Path, real: Path) -> bool:
    in_home = real.is_relative_to(harness.home) and not real.is_relative_to(harness.home / "workspace")
    return real.is_relative_to(os.path.realpath(root)) and not in_home


def expected_text(harness: ReadHarness, root: Path, path: str) -> str | None:
    """Returns the text of the file that the kernel opens at `path`, or None if it may not be shown."""
    try:
        with open(root / path) as file:
            real = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
            return file.read() if is_readable(harness, root, real) else None
    except OSError:
        return None


@pytest.mark.slow
@settings(max_examples=250)
@given(
    st.lists(tree_entries, max_size=14),
    relative_paths,
    st.booleans(),
    st.sampled_from(["", "work", "walrus", "walrus/workspace"]),
)
async def test_a_read_of_any_tree_shows_only_files_inside_the_workspace(
    tree: list[tuple[str, ...]], relative_path: str, absolute: bool, workspace: str
) -> None:
    with world_readable_harness() as harness:
        base = harness.home.parent
        (harness.home / "workspace").mkdir()
        for entry in tree:
            create_entry(base, entry)
        path = f"{base}/{relative_path}" if absolute else relative_path
        result = await harness.read(path, workspace=base / workspace)
        if (text := expected_text(harness, base / workspace, path)) is not None:
            assert (result.outcome, result.output) == ("ok", text)
        elif result.outcome == "ok":  # such as "missing/../file": the kernel does not open it, but it is inside
            assert is_readable(harness, base / workspace, Path(result.output))
        else:
            assert result.outcome == "error"
            assert "the secret" not in result.output
            assert "the key" not in result.output
