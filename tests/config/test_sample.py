"""Tests of the commented sample: it loads unchanged and with every example enabled, and has every key."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.paths import prepare_home
from walrus_config.scaffold import read_sample, scaffold
from walrus_config.schema import PermissionSettings, RawConfig, Secret, Section, ToolSettings
from walrus_config.schema.section import NotYet, section_in

UNSUPPORTED_MARK = "# not yet: "
EXAMPLE_MARK = re.compile(r"^#(?=\S)", re.MULTILINE)


def sample_with_examples() -> str:
    return EXAMPLE_MARK.sub("", read_sample())


def marked_blocks() -> Iterator[list[int]]:
    """Iterates over blocks of marked lines that belong together: one key, or a table with its keys."""
    lines = read_sample().splitlines()
    number = 0
    while number < len(lines):
        block = [number]
        if lines[number].startswith(UNSUPPORTED_MARK + "["):
            while lines[block[-1] + 1].startswith(UNSUPPORTED_MARK):
                block.append(block[-1] + 1)
        if lines[number].startswith(UNSUPPORTED_MARK):
            yield block
        number = block[-1] + 1


def schema_tables(kind: type[Section], at: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Iterates over a Struct and all tables in it, with their paths; * is a name that the user chooses."""
    yield at, kind
    for field in msgspec.structs.fields(kind):
        if section_type := section_in(field.type):
            is_named = get_origin(field.type) is Mapping
            names = section_type.types_by_name() or {"*": section_type} if is_named else {"": section_type}
            for name, type_of_name in names.items():
                yield from schema_tables(type_of_name, ".".join(filter(None, (at, field.name, name))))


def schema_keys() -> set[str]:
    return {
        f"{at}.{field.name}"
        for at, kind in schema_tables(RawConfig)
        for field in msgspec.structs.fields(kind)
        if not section_in(field.type)
    }


def unsupported_keys() -> set[str]:
    """Returns the keys that are not available yet, and those with such values."""
    keys = {f"{at}.{key}".lstrip(".") for at, kind in schema_tables(RawConfig) for key in kind.unsupported_keys}
    return keys | {
        f"{at}.{field.name}"
        for at, kind in schema_tables(RawConfig)
        for field in msgspec.structs.fields(kind)
        if any(isinstance(mark, NotYet) for mark in get_args(field.type))
    }


def table_keys(table: Mapping[str, object], at: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from table_keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def write_home(tmp_path: Path, text: str) -> Path:
    (tmp_path / "walrus.toml").write_text(text)
    (tmp_path / "walrus.toml").chmod(0o600)
    return tmp_path


def test_a_new_home_loads_with_a_warning_that_a_provider_is_missing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert prepare_home(str(home))
    scaffold(str(home))
    config = load(home, environ={"OPENAI_API_KEY": "sk"})
    assert list(config.agents) == ["walrus"]
    assert config.permissions == PermissionSettings(allow=("read",))
    assert config.warnings == (
        (
            f"{home}/walrus.toml: providers: none is configured, so agents answer with an error; "
            "OPENAI_API_KEY could be used: write a [providers.NAME] table, as in the sample"
        ),
    )


def test_the_sample_loads_with_every_example_enabled(tmp_path: Path) -> None:
    home = write_home(tmp_path, sample_with_examples())
    for file in ("openai.key", "answers.toml", "models/some-model.gguf"):
        (home / file).parent.mkdir(exist_ok=True)
        (home / file).write_text("secret\n")
        (home / file).chmod(0o600)
    (home / "work").mkdir()
    (home / "agents").mkdir()
    (home / "agents/researcher.md").write_text("You look things up.")
    config = load(home, environ={"HOME": str(home), "DEEPSEEK_API_KEY": "sk"})
    assert set(config.providers) == {"deepseek", "openai", "local", "script", "echo"}
    assert config.providers["openai"].api_key == Secret("secret")
    assert config.agents["walrus"].model == "deepseek-chat"
    [warning] = config.warnings
    assert "bash runs without a sandbox" in warning


@pytest.mark.parametrize("block", list(marked_blocks()), ids=lambda block: f"line {block[0] + 1}")
def test_an_unsupported_key_is_refused_if_its_mark_is_removed(tmp_path: Path, block: list[int]) -> None:
    # The key needs the example tables around it, but not their keys.
    lines = re.sub(r"^#(?=\[|kind)", "", read_sample(), flags=re.MULTILINE).splitlines()
    for number in block:
        lines[number] = lines[number].removeprefix(UNSUPPORTED_MARK)
    with pytest.raises(ConfigError) as refused:
        load(write_home(tmp_path, "\n".join(lines)), environ={})
    (problem,) = refused.value.problems
    assert problem.line in {number + 1 for number in block}
    assert problem.message.endswith("not available yet")


def test_every_key_is_in_the_sample() -> None:
    # [defaults] has the keys of an agent, and a comment there says so.
    keys = {key for key in schema_keys() if not key.startswith("defaults.")}
    sample_keys = {_with_wildcards(key) for key in table_keys(tomllib.loads(sample_with_examples()))}
    assert {"agents.*.heartbeat.probe", "models.*.price.input", "tools.bash.sandbox", "storage.chain"} <= keys
    # A tool without keys of its own shows the common ones by itself: enabled stands only in [tools.read].
    assert keys - sample_keys == {"tools.bash.enabled"}


def test_every_unsupported_key_is_in_the_sample_with_its_mark() -> None:
    marked = set()
    table = ""
    for line in EXAMPLE_MARK.sub("", read_sample().replace(UNSUPPORTED_MARK, "!")).splitlines():
        text = line.removeprefix("!")
        if text.startswith("["):
            table = text.partition("]")[0].strip("[") + "."
        if line.startswith("!"):
            marked.add(_with_wildcards(table.rstrip(".") if text.startswith("[") else table + text.partition(" ")[0]))
    keys = {key for key in unsupported_keys() if not key.startswith("defaults.")}
    assert {"budget", "agents.*.permissions.default", "tools.bash.sandbox"} <= keys
    shown = {key for key in keys if any(f"{marked_key}.".startswith(f"{key}.") for marked_key in marked)}
    assert keys - shown == {f"tools.bash.{key}" for key in ToolSettings.unsupported_keys}, "[tools.read] shows them"


def _with_wildcards(key: str) -> str:
    """Returns the key with * for the names that users choose; the sample has no names with dots."""
    top, *rest = key.split(".")
    if top in ("providers", "models", "agents", "mcps", "schedule"):
        rest[:1] = ["*"]
    if top == "providers" and rest[1:2] == ["headers"]:
        rest[2:] = []
    return ".".join((top, *rest))


def test_the_wheel_has_the_sample_in_the_folder_that_read_sample_expects() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["config/walrus.toml"] == "walrus_config/walrus.toml"
