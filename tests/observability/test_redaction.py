"""Tests of redaction: no known secret passes, however the text is cut, and no other text is changed."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fakes.home import Home
from walrus_config.load import load
from walrus_config.schema import ProviderSettings, Secret
from walrusd.observability.redaction import MAX_RETIRED_SECRETS, Redaction, StreamingRedactor
from walrusd.observability.secrets import collect_secrets, provider_secrets

SECRETS = ("sk-1234", "sk-1234567", "Bearer sk-1234", "abab", "34bab", "****")
PARTS = st.sampled_from([*SECRETS, *"ab134567 *sk-\n", "Bearer ", "sk-", "x" * 20])


def test_secrets_become_stars_and_the_longest_match_wins() -> None:
    redact = Redaction(["sk-1234", "sk-1234567", "abc"])
    assert redact("a sk-1234567, sk-1234x and abc") == "a ***, ***x and abc"


@pytest.mark.parametrize(
    "spell",
    [
        json.dumps,
        lambda secret: json.dumps(json.dumps(secret)),
        lambda secret: json.dumps(secret).replace("/", r"\/"),
        lambda secret: json.dumps(secret).replace("&", r"\u0026").replace("<", r"\u003c"),
        lambda secret: f"({repr(secret)[1:-1]})",
        lambda secret: f"({html.escape(secret)})",
        lambda secret: f"({quote(secret, safe='')})",
        lambda secret: f"({quote(secret)})",
        lambda secret: f"({re.sub('%..', lambda escape: escape[0].lower(), quote(secret, safe=''))})",
    ],
    ids=["JSON", "JSON in JSON", "JSON of PHP", "JSON of Go", "Python", "HTML", "URL", "path of a URL", "URL of .NET"],
)
def test_a_secret_is_found_however_it_is_escaped(spell: Callable[[str], str]) -> None:
    text = spell('a/b\\c"d&e<f+g=')
    assert Redaction(['a/b\\c"d&e<f+g='])(text).strip('\\"()') == "***"


def test_without_secrets_nothing_is_changed_or_held_back() -> None:
    assert Redaction()("any text") == "any text"
    assert StreamingRedactor(Redaction()).feed("any text") == "any text"


def test_text_that_cannot_become_a_secret_is_passed_on_at_once() -> None:
    redactor = StreamingRedactor(Redaction(["sk-1234567", "a-very-long-secret-of-many-characters"]))
    assert [redactor.feed("compiling 3 of 9"), redactor.feed(" sk-12"), redactor.feed("x sk"), redactor.finish()] == [
        "compiling 3 of 9",
        " ",
        "sk-12x ",
        "sk",
    ]


@given(st.lists(PARTS).map("".join), st.data())
@example("sk-1234", None)
def test_a_text_in_chunks_is_redacted_like_the_whole_text(text: str, data: st.DataObject | None) -> None:
    redact = Redaction(SECRETS)
    redactor, rest, pieces = StreamingRedactor(redact), text, []
    while rest:
        size = data.draw(st.integers(1, len(rest))) if data else 1
        pieces.append(redactor.feed(rest[:size]))
        rest = rest[size:]
    assert "".join([*pieces, redactor.finish()]) == redact(text)
    assert not any(secret in redact(text) for secret in SECRETS if "*" not in secret)


def test_a_replaced_secret_is_still_redacted_until_many_others_were_replaced() -> None:
    redact = Redaction(["first-secret"])
    redact.update_secrets(["second-secret"])
    assert redact("first-secret, second-secret") == "***, ***"
    for number in range(MAX_RETIRED_SECRETS - 1):
        redact.update_secrets([f"secret-{number}"])
    assert redact("first-secret, second-secret") == "***, ***"
    redact.update_secrets(["the last one"])
    assert redact("first-secret, second-secret, the last one") == "first-secret, ***, ***"


def test_a_secret_added_in_mid_stream_is_redacted_from_then_on() -> None:
    redact = Redaction()
    redactor = StreamingRedactor(redact)
    first = redactor.feed("it is ")
    redact.update_secrets(["sk-secret"])
    assert [first, redactor.feed("sk-sec"), redactor.feed("ret!"), redactor.finish()] == ["it is ", "", "***!", ""]


def test_an_environment_variable_inside_a_longer_value_is_a_secret_by_itself(tmp_path: Path) -> None:
    home = Home(
        tmp_path / "home",
        """
        [providers.a]
        kind = "openai"
        models = ["m"]
        api_key = "${KEY}"
        headers = { X-Session = "of ${ONE}", Authorization = "Bearer written-here", X-Title = "walrus" }
        """,
    )
    secrets = collect_secrets(load(home.path, environ={"KEY": "sk-1234", "ONE": "one-1234"}))
    assert secrets == {"sk-1234", "one-1234", "Bearer written-here", "written-here"}


def test_all_that_a_provider_is_sent_is_secret_in_its_errors() -> None:
    headers = {"X-Title": "walrus", "X-Team": "of one-1234", "X-Jar": "a=1; b=field-12345", "X-Auth": "Basic dXM6cHc="}
    headers |= {"X-Pair": "sso-key id:half-12345", "X-Unpadded": "Basic dXMyOnB3ZA"}
    provider = ProviderSettings(
        kind="openai",
        base_url="https://us:pw123@host/v1",
        api_key=Secret("sk-1234"),
        headers={name: Secret(value) for name, value in headers.items()},
    )
    words = {"one-1234", "b=field-12345", "field-12345", "dXM6cHc=", "us:pw", "pw"}
    words |= {"id:half-12345", "half-12345", "dXMyOnB3ZA", "us2:pwd", "pwd"}
    assert provider_secrets(provider) == {"sk-1234", "us:pw123", "pw123", *headers.values(), *words}


def test_a_key_that_is_the_name_of_its_provider_is_no_secret(tmp_path: Path) -> None:
    toml = '[providers.ollama]\nkind = "openai"\nbase_url = "http://127.0.0.1:11434/v1"\napi_key = "ollama"\n'
    assert collect_secrets(load(Home(tmp_path / "home", toml).path, environ={})) == frozenset()
