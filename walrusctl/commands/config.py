"""The commands `walrusctl config`: check and show the configuration without asking walrusd."""

import os
from typing import TYPE_CHECKING

from walrus_config import paths
from walrus_config.errors import ConfigError
from walrusctl.click_base import command, group, lazy_commands
from walrusctl.context import CliContext
from walrusctl.output import print_answer, print_error, print_json

if TYPE_CHECKING:
    from walrus_config.schema import Config


@group(
    "walrusctl config check",
    "walrusctl config show",
    lazy=lazy_commands("config:check", "config:show", "config:path"),
)
def config() -> None:
    """Check and show walrus.toml and the agents' files."""


@command("walrusctl config check")
def check(ctx: CliContext) -> None:
    """Check whether walrusd could start with these files.

    Exit 2 if it could not. The files of the home are read here; walrusd need not run.
    """
    loaded = _load(ctx, check_home=True)
    ctx.print_result({"ok": True, "path": loaded.path, "warnings": list(loaded.warnings)}, f"ok: {loaded.path}")


@command("walrusctl config show")
def show(ctx: CliContext) -> None:
    """Print the configuration with its defaults.

    Secrets are masked. These are the values that a start of walrusd would use now.
    """
    from walrus_config.masked import mask_secrets

    values = mask_secrets(_load(ctx))
    if ctx.json:
        print_json(values)
        return
    import tomlkit

    print_answer(tomlkit.dumps(_drop_unset(values)).strip())


@command("walrusctl config path")
def path(ctx: CliContext) -> None:
    """Print the path of walrus.toml, which may not exist."""
    toml = paths.home_paths(ctx.home_path()).toml
    ctx.print_result({"path": toml}, toml)


def _drop_unset(table: dict[str, object]) -> dict[str, object]:
    """Returns the table without unset values: TOML has no null."""
    values = {key: _drop_unset(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None}


def _load(ctx: CliContext, *, check_home: bool = False) -> "Config":
    """Loads the configuration and prints its warnings; prints problems and exits if there are any."""
    home = ctx.home_path()
    # Imported here: only these commands need msgspec and the parsers.
    from walrus_config.load import load

    try:
        if check_home:
            paths.check_home(home)
        loaded = load(home, environ=os.environ)
    except ConfigError as error:
        print_error(str(error))
        ctx.exit_with_problems(error)
    for warning in loaded.warnings:
        print_error(f"warning: {warning}")
    return loaded
