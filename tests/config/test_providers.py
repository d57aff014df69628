"""Tests of loaded providers: secrets, paths, and the search for a model's provider."""

import json
from pathlib import Path

import pytest

from tests.config.conftest import LoadErrors, LoadToml
from walrus_config.masked import mask_secrets
from walrus_config.schema import ModelSettings, PriceSettings, ProviderSettings, Secret
from walrus_config.schema.models import find_provider

OPENAI = '[providers.p]\nkind = "openai"\nbase_url = "http://localhost:1/v1"\nmodels = ["m"]\n'


def test_secrets_come_from_the_environment_alone_and_within_other_text(load_toml: LoadToml) -> None:
    text = OPENAI + 'api_key = "${KEY}"\nheaders = { Authorization = "Bearer ${TOKEN}-${KEY}", X-Title = "$w" }'
    assert load_toml(text, KEY="k1", TOKEN="t1").providers["p"] == ProviderSettings(
        kind="openai",
        base_url="http://localhost:1/v1",
        models=("m",),
        api_key=Secret("k1"),
        headers={"Authorization": Secret("Bearer t1-k1"), "X-Title": Secret("$w")},
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'api_key = "${NOPE}"',
            "api_key: the environment variable NOPE is not set; export NOPE=… before walrusd starts",
        ),
        ('api_key = "${VOID}"', "api_key: the environment variable VOID is empty; export VOID=… before walrusd starts"),
        ('api_key = "${my-key}"', "api_key: ${ is not followed by the name of a variable and }; write ${NAME}"),
        ('api_key = "k${KEY"', "api_key: ${ is not followed by the name of a variable and }; write ${NAME}"),
        ('api_key = "${LINES}"', "api_key: contains a line break or another character that is not allowed in a header"),
        ('api_key = ""', "api_key: is empty"),
        ('headers.X-A = "${NOPE}"', "headers.X-A: the environment variable NOPE is not set; export NOPE=… before"),
        ('headers."X A" = "x"', 'headers."X A": not a valid header name'),
        ('api_key = "k"\napi_key_file = "f"', "api_key_file: api_key is set too; keep one of the two"),
        ('api_key_file = "nowhere"', "api_key_file: there is no file HOME/nowhere"),
        (
            'api_key_file = "workspace"',
            "api_key_file: HOME/workspace: not a regular file; replace it by a text file",
        ),
        ('api_key_file = "credential:p"', "api_key_file: systemd provides no credentials here; add LoadCredential=p:…"),
    ],
)
def test_a_secret_that_cannot_be_resolved_is_refused_by_its_key(
    home: Path, load_errors: LoadErrors, line: str, message: str
) -> None:
    problem = load_errors(OPENAI + line, KEY="secret", VOID="", LINES="a\nb")[0]
    number = 5 + line.count("\n")
    assert problem.startswith(f"walrus.toml:{number}: providers.p.{message}".replace("HOME/", ""))
    assert "secret" not in problem


def test_a_missing_variable_is_reported_once(load_errors: LoadErrors) -> None:
    assert len(load_errors(OPENAI + 'api_key = "${NOPE}"')) == 1


def test_a_key_is_read_from_a_file_in_the_home(home: Path, load_toml: LoadToml) -> None:
    (home / "p.key").write_text(" sk-1\n")
    (home / "p.key").chmod(0o600)
    config = load_toml(OPENAI + 'api_key_file = "p.key"')
    provider = config.providers["p"]
    assert (provider.api_key, provider.api_key_file) == (Secret("sk-1"), str(home / "p.key"))
    assert not [warning for warning in config.warnings if "providers" in warning]


def test_a_key_file_that_others_may_read_is_accepted_with_a_warning(home: Path, load_toml: LoadToml) -> None:
    (home / "p.key").write_text("sk-1")
    (home / "p.key").chmod(0o640)
    warning = f"{home}/walrus.toml:5: providers.p.api_key_file: others may read {home}/p.key; chmod 600 {home}/p.key"
    assert warning in load_toml(OPENAI + 'api_key_file = "p.key"').warnings


def test_a_key_is_read_from_a_systemd_credential(home: Path, load_toml: LoadToml, load_errors: LoadErrors) -> None:
    folder = home / "credentials"
    folder.mkdir()
    (folder / "deep").write_text("sk-2\n")
    config = load_toml(OPENAI + 'api_key_file = "credential:deep"', CREDENTIALS_DIRECTORY=str(folder))
    assert config.providers["p"].api_key == Secret("sk-2")
    for name, message in (("../x", "not a valid credential name; write credential:NAME"), ("x", "there is no ")):
        (problem,) = load_errors(OPENAI + f'api_key_file = "credential:{name}"', CREDENTIALS_DIRECTORY=str(folder))
        assert problem.startswith(f"walrus.toml:5: providers.p.api_key_file: {message}")


def test_a_key_in_a_walrus_toml_that_others_may_read_gives_a_warning(home: Path, load_toml: LoadToml) -> None:
    from walrus_config.load import load

    toml = home / "walrus.toml"
    assert not any("others may read" in warning for warning in load_toml(OPENAI + 'api_key = "k"').warnings)
    toml.chmod(0o644)
    warning = f'{toml}:5: providers.p.api_key: others may read {toml}; chmod 600 {toml}, or write "${{NAME}}"'
    assert warning in load(home, environ={}).warnings


def test_a_variable_in_any_other_key_stays_literal_with_a_warning(home: Path, load_toml: LoadToml) -> None:
    config = load_toml('[agents.walrus]\ndescription = "costs ${MUCH}"', MUCH="x")
    assert config.agents["walrus"].description == "costs ${MUCH}"
    assert config.warnings[0] == (
        f"{home}/walrus.toml:2: agents.walrus.description: ${{…}} is not replaced here; "
        "only api_key and headers take values from the environment"
    )


def test_secrets_are_never_shown(home: Path, load_toml: LoadToml) -> None:
    (home / "p.key").write_text("sk-from-file")
    text = OPENAI + 'api_key_file = "p.key"\nheaders.X-Key = "sk-header"\n[providers.q]\nkind="openai"\napi_key="sk-q"'
    config = load_toml(text + "\n[models.m]\nprice.input = 1")
    assert "sk-" not in json.dumps(mask_secrets(config)) + repr(config) + str(config)
    providers = mask_secrets(config)["providers"]
    assert isinstance(providers, dict)
    assert providers["p"] == {
        "kind": "openai",
        "base_url": "http://localhost:1/v1",
        "api_key": "***",
        "api_key_file": f"{home}/p.key",
        "models": ["m"],
        "headers": {"X-Key": "***"},
        "timeout_s": 600.0,
        "idle_timeout_s": 60.0,
        "max_retries": 2,
        "path": "",
    }


def test_an_openai_provider_without_a_base_url_uses_the_one_of_openai(home: Path, load_toml: LoadToml) -> None:
    config = load_toml('[providers.p]\nkind = "openai"')
    assert config.providers["p"].base_url == "https://api.openai.com/v1"
    assert config.warnings[0] == (
        f"{home}/walrus.toml:1: providers.p: no api_key is set, so https://api.openai.com/v1 will refuse requests; "
        'add api_key = "${OPENAI_API_KEY}"'
    )


def test_paths_of_providers_are_absolute(home: Path, load_toml: LoadToml) -> None:
    (home / "w.gguf").write_text("")
    text = '[providers.a]\nkind = "local"\npath = "w.gguf"\n[providers.b]\nkind = "scripted"\npath = "~/w.gguf"'
    config = load_toml(text, HOME=str(home))
    assert [provider.path for provider in config.providers.values()] == [str(home / "w.gguf")] * 2


def test_a_model_is_looked_up_by_its_whole_name_before_it_is_split_at_the_slash() -> None:
    providers = {
        "openrouter": ProviderSettings(kind="openai", models=("echo/m",)),
        "echo": ProviderSettings(kind="echo", models=("m",)),
        "small": ProviderSettings(kind="local"),
    }
    names = ("echo/m", "m", "echo/other/x", "x", "no/m", "echo/", "", "echo", "small", "small/x", "openrouter")
    owners = {model: find_provider(model, providers) for model in names}
    assert owners == {
        "echo/m": "openrouter",
        "m": "echo",
        "echo/other/x": "echo",
        "x": None,
        "no/m": None,
        "echo/": None,
        "": None,
        "echo": None,
        "small": "small",
        "small/x": "small",
        "openrouter": None,
    }


def test_settings_of_models_are_loaded_and_unknown_models_give_a_warning(home: Path, load_toml: LoadToml) -> None:
    text = '[providers.l]\nkind = "local"\nmodels = ["small"]\n[models.small]\ncontext_window = 4096\n'
    config = load_toml(text + "price = { input = 1, output = 2.5 }\n[models.smal]\nmax_output_tokens = 5")
    assert config.models["small"] == ModelSettings(context_window=4096, price=PriceSettings(input=1.0, output=2.5))
    assert config.warnings[0] == f"{home}/walrus.toml:7: models.smal: no provider has this model; did you mean small?"
