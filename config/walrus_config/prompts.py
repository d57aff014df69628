"""Reads agents/*.md: each file is the system prompt of an agent.

Optional front matter sets keys of [agents.NAME].

The front matter is TOML between two lines +++ or YAML between two lines ---, at the very top. A key that is also set in
walrus.toml is refused, because it would be unclear which one counts.
"""

import os
import re

from msgspec import Struct

from walrus_config.diagnostics import SourceFile
from walrus_config.errors import ConfigError, ConfigProblem, config_error
from walrus_config.read_files import parse_toml, read_text
from walrus_config.toml_positions import find_key_lines
from walrus_config.yaml_front_matter import parse_yaml

MAX_PROMPT = 256 * 1024
"""Maximum bytes of a prompt file: some 60,000 tokens, more than most models can process."""
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
AGENT_NAME_RULE = "use at most 64 lower-case letters, digits, - and _, beginning with a letter or digit"


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt file: its text without the front matter, which may be empty, and the front matter's keys."""

    text: str
    source: SourceFile


def read_prompts(folder: str) -> tuple[dict[str, Prompt], tuple[ConfigProblem, ...]]:
    """Returns the prompts of a folder by agent, and the problems of unreadable files.

    A missing folder has none.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, config_error(
            folder, f"cannot be read: {error.strerror}", "it must be a folder with a .md file for each agent"
        ).problems
    prompts: dict[str, Prompt] = {}
    problems: list[ConfigProblem] = []
    for name in names:
        # Editors put hidden files beside the one they edit.
        if not name.endswith(".md") or name.startswith("."):
            continue
        try:
            prompts[name.removesuffix(".md")] = _read_prompt(os.path.join(folder, name))
        except ConfigError as error:
            problems += error.problems
    return prompts, tuple(problems)


def _read_prompt(file: str) -> Prompt:
    """Reads one prompt file. Raises ConfigError."""
    if not AGENT_NAME.fullmatch(os.path.basename(file).removesuffix(".md")):
        raise config_error(
            os.fsencode(file).decode(errors="replace"),
            "the file name is not a valid agent name",
            f"{AGENT_NAME_RULE}; rename it, or move it out of agents/",
        )
    try:
        text = read_text(file, limit=MAX_PROMPT).replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise config_error(file, "is a link to a missing file") from error
    if "\x00" in text:
        raise config_error(file, "contains a NUL character", "a prompt must be plain text")
    fence = text.partition("\n")[0].rstrip()
    if fence not in ("+++", "---"):
        return Prompt(text=text.strip(), source=SourceFile(file, {}, dict))
    lines = text.split("\n")
    end = next((n for n, line in enumerate(lines) if n > 0 and line.rstrip() == fence), None)
    if end is None:
        hint = f"add a line {fence} after it"
        raise ConfigError([ConfigProblem(file, 1, "", f"the front matter begins with {fence} and does not end", hint)])
    body = "\n".join(lines[end + 1 :]).strip()
    return Prompt(text=body, source=_parse_front_matter(file, fence, "\n".join(lines[1:end])))


def _parse_front_matter(file: str, fence: str, text: str) -> SourceFile:
    """Parses the lines between two fences. Raises ConfigError."""
    if fence == "+++":
        table = parse_toml(file, text, first_line=2)
        return SourceFile(file, table, lambda: {path: line + 1 for path, line in find_key_lines(text).items()})
    table, lines = parse_yaml(file, text, first_line=2)
    return SourceFile(file, table, lambda: lines)
