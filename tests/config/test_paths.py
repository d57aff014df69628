"""Tests of the paths of a home and its socket, the checks of a home, and the files of a new one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from walrus_config.errors import ConfigError
from walrus_config.paths import home_path, home_paths, prepare_home, read_configured_socket, socket_path
from walrus_config.scaffold import read_sample, scaffold


def home_error(home: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        prepare_home(str(home))
    return str(refused.value)


def test_the_home_is_the_flag_else_the_environment_else_in_the_users_home_folder() -> None:
    environ = {"HOME": "/u/ann", "WALRUS_HOME": "~/w"}
    assert home_path("/srv/w/../x", environ) == "/srv/x"
    assert home_path(None, environ) == "/u/ann/w"
    assert home_path(None, {"HOME": "/u/ann", "WALRUS_HOME": ""}) == "/u/ann/.openwalrus"
    assert home_path("here", environ) == os.path.join(os.getcwd(), "here")
    assert home_path("~", {}) == os.path.expanduser(f"~{os.environ.get('USER', 'root')}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_without_a_home_folder_gets_a_hint_to_set_one() -> None:
    os.seteuid(61234)
    try:
        with pytest.raises(ConfigError, match=r"uid 61234 has no home folder; set HOME or WALRUS_HOME"):
            home_path(None, {})
        assert home_path(None, {"WALRUS_HOME": "/h"}) == "/h"
    finally:
        os.seteuid(0)


def test_every_path_in_a_home_has_a_fixed_name() -> None:
    assert home_paths("/h")._asdict() == {
        "home": "/h",
        "toml": "/h/walrus.toml",
        "agents": "/h/agents",
        "database": "/h/walrus.db",
        "lock": "/h/walrusd.lock",
        "logs": "/h/logs",
        "workspace": "/h/workspace",
    }


def test_the_socket_is_the_flag_else_the_environment_else_the_file_else_in_the_home() -> None:
    environ = {"HOME": "/u/ann", "WALRUS_SOCKET": "/e.sock"}
    assert socket_path("~/f.sock", environ, "/h", configured="c.sock") == "/u/ann/f.sock"
    assert socket_path(None, environ, "/h", configured="c.sock") == "/e.sock"
    assert socket_path(None, {}, "/h", configured="run/c.sock") == "/h/run/c.sock"
    assert socket_path(None, {}, "/h") == "/h/walrus.sock"


def test_the_longest_allowed_socket_path_can_be_bound_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ü"  # two bytes
    folder.mkdir()
    path = str(folder / ("x" * (106 - len(os.fsencode(folder)))))
    assert socket_path(path, {}, "/h") == path
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
    with pytest.raises(ConfigError, match=r"108 bytes; the system allows at most 107; .*--socket, WALRUS_SOCKET"):
        socket_path(path + "x", {}, "/h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ('[daemon]\n#socket = "a"', ""),
        ('[daemon]\nsocket = "a"', "a"),
        ('daemon.socket = "a"', "a"),
        ('daemon = { log_level = "#", "socket" = "a" }', "a"),
        ("[daemon]\nsocket = 1", ""),
        ('daemon = "socket ="', ""),
        ('[daemon\nsocket = "a"', ""),
        ("# caf\udce9\nsocket = 1", ""),
    ],
)
def test_a_client_reads_the_configured_socket_without_loading_the_rest(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "walrus.toml").write_bytes(text.encode(errors="surrogateescape"))
    assert read_configured_socket(str(tmp_path)) == expected


def test_a_client_reads_no_configured_socket_if_the_file_is_missing(tmp_path: Path) -> None:
    assert read_configured_socket(str(tmp_path)) == ""


def test_the_module_paths_imports_no_slow_modules() -> None:
    code = (
        "import sys, walrus_config.paths, walrus_config.scaffold;"
        "slow = {'msgspec', 'yaml', 'tomllib', 'tomlkit', 'trio', 'pathlib', 'dataclasses'};"
        "print(sorted(slow & sys.modules.keys()))"
    )
    folder = str(Path(__file__).parents[2] / "config")
    # -S: modules that site and its .pth files import do not count.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_home_is_created_with_mode_0700_under_any_umask(tmp_path: Path) -> None:
    code = "import os, sys; os.umask(0); from walrus_config.paths import prepare_home; print(prepare_home(sys.argv[1]))"
    home = tmp_path / "above" / "home"
    for expected in ("True\n", "False\n"):
        done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
        assert done.stdout == expected
    assert [path.stat().st_mode & 0o777 for path in (home, home.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_home_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert home_error(tmp_path) == (
        f"{tmp_path}: group or others may write the home (mode {mode:04o}); chmod 700 {tmp_path}"
    )


def test_a_home_that_others_may_only_read_is_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert not prepare_home(str(tmp_path))


def test_a_home_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "the home is not a folder" in home_error(file)
    assert "the folder cannot be created" in home_error(file / "home")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert "there is no such folder" in home_error(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a folder")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    message = home_error(tmp_path)
    assert "the home belongs to uid 12345, and walrusd runs as " in message
    assert message.endswith("; run walrusd as its owner, or choose another with WALRUS_HOME")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "the home is not writable; chmod 700" in home_error(tmp_path)
    assert "the folder cannot be created: Permission denied" in home_error(tmp_path / "home")
    tmp_path.chmod(0o700)


def test_a_new_home_gets_a_sample_an_agent_and_folders(tmp_path: Path) -> None:
    created = scaffold(str(tmp_path))
    assert created == [str(tmp_path / name) for name in ("workspace", "agents/walrus.md", "walrus.toml")]
    assert (tmp_path / "walrus.toml").read_text() == read_sample()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    files = dict.fromkeys(("walrus.toml", "walrus.md"), 0o600)
    assert modes == files | dict.fromkeys(("workspace", "agents"), 0o700)


def test_existing_files_of_a_home_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "walrus.toml").symlink_to(tmp_path / "elsewhere.toml")
    (tmp_path / "agents").mkdir()
    created = scaffold(str(tmp_path))
    assert created == [str(tmp_path / "workspace")]
    assert list((tmp_path / "agents").iterdir()) == []
    assert not (tmp_path / "elsewhere.toml").exists()
    assert scaffold(str(tmp_path)) == []


def test_the_error_of_a_scaffold_that_cannot_be_written_names_the_path(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.symlink_to("/proc/self")
    with pytest.raises(ConfigError, match=r"/home/workspace: the folder cannot be created: .*; choose another with"):
        scaffold(str(home))
