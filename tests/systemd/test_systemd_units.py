"""Tests of the systemd units: systemd accepts them, and they match the daemon."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.required_programs import find_program
from walrus_protocol.wire import EXIT_ALREADY_RUNNING, EXIT_BAD_CONFIG
from walrusctl.systemd_units import NAMES, SERVICE, Installation, read_home, read_state, render_units, write_unit
from walrusd.daemon import SHUTDOWN_MARGIN_S
from walrusd.host.signals import EXIT_FORCED

ROOT = Path(__file__).parents[2]
PLAIN_INSTALLATION = Installation(
    walrusd="/usr/bin/true",
    home="/home/ann/.openwalrus",
    socket="/home/ann/.openwalrus/walrus.sock",
    needs_socket_option=False,
    grace_s=10.0,
    umask=0o022,
)
STRANGE_INSTALLATION = PLAIN_INSTALLATION._replace(
    home='/home/ann/50% "off" $HOME \\ [x]', socket="/tmp/a % b.sock", needs_socket_option=True, umask=0o077
)


def parse_unit(text: str) -> ConfigParser:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]  # the documented way to keep upper case
    unit.read_string(text)
    return unit


@pytest.mark.parametrize("installation", [PLAIN_INSTALLATION, STRANGE_INSTALLATION], ids=["plain", "strange"])
def test_systemd_analyze_accepts_the_units(tmp_path: Path, installation: Installation) -> None:
    systemd_analyze = find_program("systemd-analyze")
    paths = [write_unit(str(tmp_path), name, text) for name, text in render_units(installation).items()]
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    verified = subprocess.run(
        [systemd_analyze, "--user", "verify", *paths],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_service_unit_matches_the_daemon() -> None:
    service = parse_unit(render_units(PLAIN_INSTALLATION)["walrusd.service"])["Service"]
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "mixed")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == f"{EXIT_ALREADY_RUNNING} {EXIT_BAD_CONFIG}"
    assert service["SuccessExitStatus"] == str(EXIT_FORCED)
    assert service["OOMPolicy"] == "continue"


@pytest.mark.parametrize("grace_s", [0.0, 10.0, 0.5, 86_400.0])
def test_a_stop_has_more_time_than_the_grace_period(grace_s: float) -> None:
    service = parse_unit(render_units(PLAIN_INSTALLATION._replace(grace_s=grace_s))["walrusd.service"])["Service"]
    assert int(service["TimeoutStopSec"]) >= grace_s + SHUTDOWN_MARGIN_S


def test_automatic_restarts_alone_never_reach_the_start_limit() -> None:
    service = parse_unit(render_units(PLAIN_INSTALLATION)["walrusd.service"])
    interval, window = float(service["Service"]["RestartSec"]), float(service["Unit"]["StartLimitIntervalSec"])
    assert window / interval + 1 < int(service["Unit"]["StartLimitBurst"])


def test_the_socket_is_private() -> None:
    socket = parse_unit(render_units(PLAIN_INSTALLATION)["walrusd.socket"])["Socket"]
    assert (socket["SocketMode"], socket["DirectoryMode"]) == ("0600", "0700")
    assert socket["ListenStream"] == PLAIN_INSTALLATION.socket


def test_no_option_of_the_service_prevents_sudo_or_a_sandbox_in_tools() -> None:
    """In a user's service manager each of these options implies no_new_privs or a user namespace."""
    service = parse_unit(render_units(PLAIN_INSTALLATION)["walrusd.service"])["Service"]
    excluded = ("NoNew", "Protect", "Private", "Restrict", "SystemCall", "Lock", "MemoryDeny", "Capabil", "ReadOnly")
    assert not [key for key in service if key.startswith(excluded)]


def test_an_edited_or_outdated_or_foreign_unit_is_recognised(tmp_path: Path) -> None:
    older, newer = (
        render_units(PLAIN_INSTALLATION)["walrusd.socket"],
        render_units(STRANGE_INSTALLATION)["walrusd.socket"],
    )
    path = tmp_path / "units" / "walrusd.socket"
    assert read_state(str(path), newer) == "absent"
    write_unit(str(path.parent), "walrusd.socket", older)
    assert os.listdir(path.parent) == ["walrusd.socket"]
    assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    assert (read_state(str(path), older), read_state(str(path), newer)) == ("current", "outdated")
    with open(path, "a") as file:
        file.write("# mine\n")
    assert read_state(str(path), newer) == "edited"
    path.write_text("[Socket]\n")
    assert read_state(str(path), newer) == "foreign"


PATHS = (
    st.text(min_size=1)
    .map(lambda text: f"/{text}")
    .filter(lambda path: path.isprintable() and path == path.strip() and not path.endswith("\\"))
)


@given(home=PATHS | st.text("/%$\"\\' [h-", min_size=1).map(lambda text: f"/{text}x"), named=st.booleans())
def test_any_home_is_read_back_from_the_unit(tmp_path_factory: pytest.TempPathFactory, home: str, named: bool) -> None:
    folder = str(tmp_path_factory.getbasetemp() / "read-back")
    write_unit(
        folder, SERVICE, render_units(PLAIN_INSTALLATION._replace(home=home, needs_socket_option=named))[SERVICE]
    )
    assert read_home(folder) == home


@pytest.mark.parametrize(
    "line",
    ["", "ExecStart=", "ExecStart=/bin/walrusd --home %h/x", 'ExecStart="/bin/walrusd"', 'ExecStart="x" "--home"'],
)
def test_no_home_is_read_from_a_line_that_is_not_ours(tmp_path: Path, line: str) -> None:
    write_unit(str(tmp_path), SERVICE, re.sub(r"ExecStart=.*", line, render_units(PLAIN_INSTALLATION)[SERVICE]))
    assert read_home(str(tmp_path)) is None
    assert read_home(str(tmp_path / "nowhere")) is None


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """A folder with the packages and files as the wheel installs them."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = tmp_path / "site"
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, site / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in wheel["force-include"].items():
        (site / target).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / source, site / target)
    return site


def test_a_unit_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "walrusd.socket").mkdir()
    with pytest.raises(IsADirectoryError):
        write_unit(str(tmp_path), "walrusd.socket", "[Socket]\n")
    assert os.listdir(tmp_path) == ["walrusd.socket"]


def test_an_installed_walrusctl_writes_the_same_units_as_a_checkout(site_packages: Path) -> None:
    program = (
        "import walrusctl.systemd_units as u; print(u.__file__); "
        f"print(*u.render_units(u.Installation(*{tuple(PLAIN_INSTALLATION)})).values())"
    )
    printed = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(site_packages), *sys.path]!r}; {program}"],
        cwd=site_packages,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    module, _, units = printed.stdout.partition("\n")
    assert module == f"{site_packages}/walrusctl/systemd_units.py"
    assert units == " ".join(render_units(PLAIN_INSTALLATION).values()) + "\n"
    assert sorted(os.listdir(site_packages / "walrusctl" / "systemd")) == sorted(NAMES)
