"""walrusctl config: the files of the home, read here and now; no daemon is asked."""

import os
from typing import TYPE_CHECKING

import click

from walrus_config import paths
from walrus_config.problems import ConfigError
from walrus_protocol import wire
from walrusctl.groups import LazyGroup, common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say, say_json

if TYPE_CHECKING:
    from walrus_config.schema import Config

HERE = "walrusctl.commands.config"


@click.command(cls=LazyGroup, lazy={"check": f"{HERE}:check", "show": f"{HERE}:show", "path": f"{HERE}:path"})
@common_options
def config() -> None:
    """walrus.toml and what belongs to it."""


@click.command()
@common_options
@pass_invocation
def check(asked: Invocation) -> None:
    """Say whether walrusd could start with the files as they are now; exit 2 where it could not."""
    loaded = _load(asked, check_home=True)
    if asked.json:
        say_json({"ok": True, "path": loaded.path, "warnings": list(loaded.warnings)})
    else:
        say(f"ok: {loaded.path}")


@click.command()
@common_options
@pass_invocation
def show(asked: Invocation) -> None:
    """Print the configuration as it would be in force, defaults filled in and secrets masked."""
    from walrus_config.load import shown

    whole = shown(_load(asked))
    if asked.json:
        say_json(whole)
        return
    import tomlkit

    say(tomlkit.dumps(_set(whole)).strip())


@click.command()
@common_options
@pass_invocation
def path(asked: Invocation) -> None:
    """Print where walrus.toml is, or would be."""
    toml = paths.paths(asked.home_path()).toml
    if asked.json:
        say_json({"path": toml})
    else:
        say(toml)


def _set(table: dict[str, object]) -> dict[str, object]:
    """The same without what is not set: TOML has no null."""
    values = {key: _set(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None}


def _load(asked: Invocation, *, check_home: bool = False) -> "Config":
    """The configuration, its warnings said; where there are problems they are said and the command ends."""
    home = asked.home_path()
    # msgspec and the parsers are for these commands alone: no other pays for them.
    from walrus_config.load import load

    try:
        if check_home:
            paths.check_home(home)
        loaded = load(home, environ=os.environ)
    except ConfigError as error:
        complain(str(error))
        if asked.json:
            say_json({"ok": False, "problems": [problem._asdict() for problem in error.problems]})
        raise click.exceptions.Exit(wire.EXIT_USAGE) from None
    for warning in loaded.warnings:
        complain(f"warning: {warning}")
    return loaded
