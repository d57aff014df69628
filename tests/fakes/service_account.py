"""A user account in a temporary folder, in which tests run `walrusctl service`."""

import json
from pathlib import Path

from tests.fakes.walrusctl_runner import WalrusctlRunner


class ServiceAccount(WalrusctlRunner):
    """A user account: a home folder, its config folder, and a walrusd home that may not exist yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "account" / ".openwalrus")
        (folder / "account").mkdir()
        self.units_folder = folder / "account" / ".config" / "systemd" / "user"
        self.environ |= {"HOME": str(folder / "account"), "PATH": "/nowhere", "XDG_RUNTIME_DIR": "/run/user/4711"}
        self.environ |= {"XDG_CONFIG_HOME": "", "SECRET_KEY": ""}

    def read_unit(self, name: str) -> str:
        return (self.units_folder / name).read_text()

    def write_config(self, text: str) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / "walrus.toml").write_text(text)
        (self.home / "walrus.toml").chmod(0o600)

    def report(self, *words: str) -> dict[str, object]:
        report = json.loads(self.run("service", *words, "--json").stdout)
        assert isinstance(report, dict)
        return report
