"""Lives in processes of their own, each in a home, and homes that are as another was left."""

import shutil
import signal
from functools import partial
from pathlib import Path

import msgspec
import trio

from tests.crash.life import Account, Life, live
from tests.fakes.deaths import in_a_fork
from tests.fakes.stores import SqliteDisk
from walrus_protocol.json import decode

ACCOUNT = "account"


class Lives:
    """Each home is a folder of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._homes = 0
        self._empty = self._home()
        assert in_a_fork(partial(trio.run, _make_log, self._empty)) == 0

    def new(self) -> Path:
        return self.home(self._empty)

    def home(self, like: Path) -> Path:
        """A new one, as another was left."""
        home = self._home()
        for name in ("walrus.db", "walrus.db-wal", "notes", "published", "trace"):
            if (like / name).exists():
                shutil.copyfile(like / name, home / name)
        return home

    def _home(self) -> Path:
        self._homes += 1
        home = self._folder / str(self._homes)
        home.mkdir()
        return home

    def killed(self, life: Life) -> None:
        assert in_a_fork(partial(_tell, life)) == -signal.SIGKILL, f"{life} survived"

    def whole(self, life: Life) -> Account:
        """Raises AssertionError where a promise was broken; what it was is told on stderr."""
        status = in_a_fork(partial(_tell, life))
        assert status == 0, f"{life} ended with {status}"
        return decode((life.folder / ACCOUNT).read_bytes(), Account)


async def _make_log(folder: Path) -> None:
    await (await SqliteDisk(folder).open()).aclose()


def _tell(life: Life) -> None:
    (life.folder / ACCOUNT).write_bytes(msgspec.json.encode(live(life)))
