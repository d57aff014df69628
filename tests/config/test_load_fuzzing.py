"""Fuzz tests of loading: any content of a home's files gives a Config or a ConfigError."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.masked import mask_secrets
from walrus_config.schema import Config

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SYNTAX = r"""[ ] [[ ]] { } = , . " ' \ # --- +++ : - & * ! !!int !!timestamp !!bool << ${ } ${X} ~ /"""
_WORDS = (
    "true 0 -1 nan inf 1e999 2020-01-01 07:30:00 daemon defaults providers models agents permissions tools sessions "
    "storage socket kind api_key api_key_file headers path base_url workspace price allow model walrus echo openai "
    "credential: read /dev/null .. ~root ~nobody-there"
)
words = st.sampled_from(["\n", "\n", "\n", " ", "\x00", "\x1b", *_SYNTAX.split(" "), *_WORDS.split(" ")])
files = st.one_of(st.binary(max_size=60), st.lists(words, max_size=24).map(lambda drawn: "".join(drawn).encode()))
values = st.one_of(
    st.text(max_size=4),
    words,
    st.integers(-2, 2**70),
    st.booleans(),
    st.floats(),
    st.lists(words, max_size=2),
    st.just({}),
)
tables = st.dictionaries(st.one_of(words, st.text(max_size=3)), values, max_size=4)


def encode_sections(sections: list[tuple[list[str], dict[str, object]]]) -> bytes:
    """Returns text that is mostly valid TOML, with mostly known keys."""
    text = ""
    for path, table in sections:
        text += f"[{'.'.join(json.dumps(part) for part in path)}]\n"
        text += "".join(f"{json.dumps(key)} = {json.dumps(value).lower()}\n" for key, value in table.items())
    return text.encode()


plausible_files = st.lists(st.tuples(st.lists(words, min_size=1, max_size=3), tables), max_size=4).map(encode_sections)


def load_outcome(home: Path) -> Config | ConfigError:
    try:
        return load(home, environ={"HOME": str(home), "X": "x"})
    except ConfigError as refused:
        return refused


@pytest.mark.slow
@settings(max_examples=150)
@given(toml=st.one_of(files, plausible_files), prompt=files)
def test_any_files_give_a_config_or_an_error_without_control_characters(toml: bytes, prompt: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "agents").mkdir()
        (home / "walrus.toml").write_bytes(toml)
        (home / "agents/a.md").write_bytes(prompt)
        match load_outcome(home):
            case Config() as config:
                assert json.loads(json.dumps(mask_secrets(config), allow_nan=False)) == mask_secrets(config)
                messages = config.warnings
            case ConfigError() as refused:
                assert refused.problems
                messages = tuple(map(str, refused.problems))
        assert not CONTROL.search("".join(messages))


@settings(max_examples=150)
@given(st.sampled_from(["---", "+++"]), files)
def test_any_front_matter_gives_an_agent_or_an_error_naming_its_file(fence: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "agents").mkdir()
        (home / "walrus.toml").write_bytes(b"")
        (home / "agents/a.md").write_bytes(f"{fence}\n".encode() + content + f"\n{fence}\n".encode())
        match load_outcome(home):
            case Config() as config:
                assert set(config.agents) == {"walrus", "a"}
            case ConfigError() as refused:
                assert {Path(problem.file).name for problem in refused.problems} == {"a.md"}
