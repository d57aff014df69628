"""walrusctl config: the files of the home, read here and now; no daemon is asked."""

import os
from typing import TYPE_CHECKING

import click

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrus_protocol import wire
from walrusctl.click_base import LazyGroup, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import print_answer, print_error, print_json

if TYPE_CHECKING:
    from walrus_config.schema import Config

HERE = "walrusctl.commands.config"


@click.command(cls=LazyGroup, lazy={"check": f"{HERE}:check", "show": f"{HERE}:show", "path": f"{HERE}:path"})
@common_options
def config() -> None:
    """walrus.toml and what belongs to it."""


@click.command()
@common_options
@pass_cli_context
def check(ctx: CliContext) -> None:
    """Say whether walrusd could start with the files as they are now; exit 2 where it could not."""
    loaded = _load(ctx, check_home=True)
    if ctx.json:
        print_json({"ok": True, "path": loaded.path, "warnings": list(loaded.warnings)})
    else:
        print_answer(f"ok: {loaded.path}")


@click.command()
@common_options
@pass_cli_context
def show(ctx: CliContext) -> None:
    """Print the configuration as it would be in force, defaults filled in and secrets masked."""
    from walrus_config.load import mask_secrets

    whole = mask_secrets(_load(ctx))
    if ctx.json:
        print_json(whole)
        return
    import tomlkit

    print_answer(tomlkit.dumps(_drop_unset(whole)).strip())


@click.command()
@common_options
@pass_cli_context
def path(ctx: CliContext) -> None:
    """Print where walrus.toml is, or would be."""
    toml = paths.home_paths(ctx.home_path()).toml
    if ctx.json:
        print_json({"path": toml})
    else:
        print_answer(toml)


def _drop_unset(table: dict[str, object]) -> dict[str, object]:
    """The same without what is not set: TOML has no null."""
    values = {key: _drop_unset(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None}


def _load(ctx: CliContext, *, check_home: bool = False) -> "Config":
    """The configuration, its warnings said; where there are problems they are said and the command ends."""
    home = ctx.home_path()
    # msgspec and the parsers are for these commands alone: no other pays for them.
    from walrus_config.load import load

    try:
        if check_home:
            paths.check_home(home)
        loaded = load(home, environ=os.environ)
    except ConfigError as error:
        print_error(str(error))
        if ctx.json:
            print_json({"ok": False, "problems": [problem._asdict() for problem in error.problems]})
        raise click.exceptions.Exit(wire.EXIT_USAGE) from None
    for warning in loaded.warnings:
        print_error(f"warning: {warning}")
    return loaded
