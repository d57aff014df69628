"""What a new home is given: the commented sample, the agent that is always there as a file to edit, empty folders."""

import os
from contextlib import suppress

from walrus_config.errors import config_error
from walrus_config.paths import home_paths, make_folder

BUILT_IN_AGENT = "walrus"
BUILT_IN_DESCRIPTION = "The agent that is there from the start"
BUILT_IN_PROMPT = """\
You are walrus, an assistant that lives as a daemon on its user's own machine. Answer plainly and briefly. Use your \
tools where they help, and never claim to have done what you did not do. Where a tool is refused, say what you needed \
it for. Say so when you do not know."""

_WALRUS_MD = f"""\
+++
# This file is the agent "{BUILT_IN_AGENT}": what stands below the second +++ is its system prompt.
# Here may stand any key of [agents.NAME] in walrus.toml, such as
# model = "deepseek-chat"
+++
{BUILT_IN_PROMPT}
"""


def read_sample() -> str:
    """The commented sample of walrus.toml."""
    here = os.path.dirname(os.path.abspath(__file__))
    # Beside this file where it was installed, one folder up in a checkout.
    installed = os.path.join(here, "walrus.toml")
    path = installed if os.path.exists(installed) else os.path.join(os.path.dirname(here), "walrus.toml")
    with open(path, encoding="utf-8") as file:
        return file.read()


def scaffold(home: str) -> list[str]:
    """Give a home what it lacks, and answer what was written. Nothing that is there is touched.

    `home` itself is there: see `prepare_home`. Raises ConfigError where something cannot be written.
    """
    where = home_paths(home)
    made = [where.workspace] if make_folder(where.workspace) else []
    # Only with its folder: whoever has deleted the example does not want it back.
    if make_folder(where.agents):
        made.append(_write_new_file(os.path.join(where.agents, f"{BUILT_IN_AGENT}.md"), _WALRUS_MD))
    if not os.path.lexists(where.toml):
        made.append(_write_new_file(where.toml, read_sample()))
    return made


def _write_new_file(path: str, text: str) -> str:
    """Write a new file that only its owner may read: keys may come to stand in it."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                os.unlink(path)  # half of it would be taken for the user's own wish
        raise config_error(path, f"cannot be written: {error.strerror}", "make room, or choose another home") from error
    return path
