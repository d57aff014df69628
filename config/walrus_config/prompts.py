"""agents/*.md: the whole file is an agent's system prompt; front matter may carry the keys of [agents.NAME].

The front matter is TOML between two lines +++ or YAML between two lines ---, at the very top. A key that stands in
walrus.toml too is refused there and here: two answers to one question are one too many.
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
"""Bytes: some 60,000 tokens, which is more than most models can take with room for an answer."""
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
AGENT_NAME_RULE = "lower-case letters, digits, - and _, at most 64, a letter or digit first"


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt file, its front matter taken off. `text` may be empty."""

    text: str
    source: SourceFile


def read_prompts(folder: str) -> tuple[dict[str, Prompt], tuple[ConfigProblem, ...]]:
    """The prompts of a folder by agent, and what is wrong with the others. A missing folder has none."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, config_error(
            folder, f"cannot be read: {error.strerror}", "it is a folder with a .md for each agent"
        ).problems
    prompts: dict[str, Prompt] = {}
    problems: list[ConfigProblem] = []
    for name in names:
        # Editors keep their own files beside the one they edit, hidden.
        if not name.endswith(".md") or name.startswith("."):
            continue
        try:
            prompts[name.removesuffix(".md")] = _read_prompt(os.path.join(folder, name))
        except ConfigError as error:
            problems += error.problems
    return prompts, tuple(problems)


def _read_prompt(file: str) -> Prompt:
    """Raises ConfigError."""
    if not AGENT_NAME.fullmatch(os.path.basename(file).removesuffix(".md")):
        raise config_error(
            os.fsencode(file).decode(errors="replace"),
            "its name cannot be an agent's",
            f"{AGENT_NAME_RULE}; rename it, or move it out of agents/",
        )
    try:
        text = read_text(file, limit=MAX_PROMPT).replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise config_error(file, "a link to a file that is not there") from error
    if "\x00" in text:
        raise config_error(file, "holds a NUL character", "a prompt is plain text")
    fence = text.partition("\n")[0].rstrip()
    if fence not in ("+++", "---"):
        return Prompt(text=text.strip(), source=SourceFile(file, {}, dict))
    lines = text.split("\n")
    end = next((n for n, line in enumerate(lines) if n > 0 and line.rstrip() == fence), None)
    if end is None:
        hint = f"put a line {fence} after it"
        raise ConfigError([ConfigProblem(file, 1, "", f"the front matter is opened by {fence} and never closed", hint)])
    body = "\n".join(lines[end + 1 :]).strip()
    return Prompt(text=body, source=_parse_front_matter(file, fence, "\n".join(lines[1:end])))


def _parse_front_matter(file: str, fence: str, text: str) -> SourceFile:
    """Raises ConfigError."""
    if fence == "+++":
        table = parse_toml(file, text, first_line=2)
        return SourceFile(file, table, lambda: {path: line + 1 for path, line in find_key_lines(text).items()})
    table, lines = parse_yaml(file, text, first_line=2)
    return SourceFile(file, table, lambda: lines)
