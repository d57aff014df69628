"""Fixtures for tests of walrus_config: a home, and functions that load a walrus.toml."""

from collections.abc import Callable
from pathlib import Path

import pytest

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.schema import Config

LoadToml = Callable[..., Config]
LoadErrors = Callable[..., list[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the folders agents/ and workspace/, and without walrus.toml."""
    for name in ("agents", "workspace"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def load_toml(home: Path) -> LoadToml:
    """A function that writes and loads a walrus.toml with the given text."""

    def load_text(text: str = "", /, **environ: str) -> Config:
        (home / "walrus.toml").write_text(text)
        (home / "walrus.toml").chmod(0o600)
        return load(home, environ=environ)

    return load_text


@pytest.fixture
def load_errors(home: Path, load_toml: LoadToml) -> LoadErrors:
    """A function that returns the problems of a walrus.toml with the given text.

    The paths in them do not contain the home.
    """

    def load_and_fail(text: str = "", /, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as error:
            load_toml(text, **environ)
        return [str(problem).replace(f"{home}/", "") for problem in error.value.problems]

    return load_and_fail
