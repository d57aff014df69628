"""A home to write files into, and what loading it says."""

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
    """With folders for agents and their files, and no walrus.toml yet."""
    for name in ("agents", "workspace"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def load_toml(home: Path) -> LoadToml:
    """Load a walrus.toml of this text."""

    def load_text(text: str = "", /, **environ: str) -> Config:
        (home / "walrus.toml").write_text(text)
        (home / "walrus.toml").chmod(0o600)
        return load(home, environ=environ)

    return load_text


@pytest.fixture
def load_errors(home: Path, load_toml: LoadToml) -> LoadErrors:
    """What is said of a walrus.toml of this text, problem by problem, the home left out."""

    def refuse(text: str = "", /, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as error:
            load_toml(text, **environ)
        return [str(problem).replace(f"{home}/", "") for problem in error.value.problems]

    return refuse
