"""Writes the files of a new home: the commented sample, the built-in agent as an example, and folders."""

import os
from contextlib import suppress

from walrus_config.errors import config_error
from walrus_config.paths import home_paths, make_folder

BUILT_IN_AGENT = "walrus"
BUILT_IN_DESCRIPTION = "The built-in agent"
BUILT_IN_PROMPT = """\
You are walrus, an assistant that runs as a daemon on its user's own machine. Answer plainly and briefly. Use your \
tools if they help, and never claim to have done something that you did not do. If a tool call is refused, say what \
you needed it for. If you do not know something, say so."""

_WALRUS_MD = f"""\
+++
# This file defines the agent "{BUILT_IN_AGENT}": the text below the second +++ is its system prompt.
# You can set any key of [agents.NAME] of walrus.toml here, for example
# model = "deepseek-chat"
+++
{BUILT_IN_PROMPT}
"""


def read_sample() -> str:
    """Returns the commented sample of walrus.toml."""
    here = os.path.dirname(os.path.abspath(__file__))
    # In an installed package it is beside this file, in a checkout one folder up.
    installed = os.path.join(here, "walrus.toml")
    path = installed if os.path.exists(installed) else os.path.join(os.path.dirname(here), "walrus.toml")
    with open(path, encoding="utf-8") as file:
        return file.read()


def scaffold(home: str) -> list[str]:
    """Creates the missing files and folders of a home, and returns their paths.

    Existing ones are not changed.

    `home` itself must exist: see `prepare_home`. Raises ConfigError if something cannot be written.
    """
    paths = home_paths(home)
    created = [paths.workspace] if make_folder(paths.workspace) else []
    # Only if its folder was missing: a deleted example is not restored.
    if make_folder(paths.agents):
        created.append(_write_new_file(os.path.join(paths.agents, f"{BUILT_IN_AGENT}.md"), _WALRUS_MD))
    if not os.path.lexists(paths.toml):
        created.append(_write_new_file(paths.toml, read_sample()))
    return created


def _write_new_file(path: str, text: str) -> str:
    """Writes a new file with mode 0600, because keys may be added to it later; returns its path."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                os.unlink(path)  # a partial file would look like the user's own settings
        hint = "check free space and permissions, or choose another home"
        raise config_error(path, f"cannot be written: {error.strerror}", hint) from error
    return path
