"""[providers] and [models]: what each kind needs, its secrets resolved, and which provider a model's name means."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec.structs import replace

from walrus_config.diagnostics import Diagnostics
from walrus_config.errors import did_you_mean
from walrus_config.paths import expand
from walrus_config.schema import OPENAI_URL, ModelSettings, ProviderSettings
from walrus_config.secrets import expand_variables, is_private, read_secret_file
from walrus_config.toml_positions import KeyPath

_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REMOTE_KEYS = ("base_url", "api_key", "api_key_file", "headers")
_UNUSED_KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("path",),
    "local": _REMOTE_KEYS,
    "scripted": _REMOTE_KEYS,
    "echo": (*_REMOTE_KEYS, "path"),
}
"""Keys that a kind would not read. To ignore one would be to break a promise."""


def model_names(name: str, provider: ProviderSettings) -> tuple[str, ...]:
    """The names by which a provider's models go without it: those it lists; one that is one model has its own."""
    return provider.models or (() if provider.kind == "openai" else (name,))


def find_provider(model: str, providers: Mapping[str, ProviderSettings]) -> str | None:
    """The provider that a model's name means: one that has the name whole, else the text before the first slash."""
    for name, provider in providers.items():
        if model in model_names(name, provider):
            return name
    prefix, slash, rest = model.partition("/")
    return prefix if slash and rest and prefix in providers else None


def nearest_model_hint(model: str, providers: Mapping[str, ProviderSettings]) -> str:
    """A hint for a name that no provider knows."""
    return did_you_mean(
        model, [model for name, provider in providers.items() for model in model_names(name, provider)]
    ) or ("list it in the models of a provider, or write provider/model")


def resolve_provider(
    name: str, provider: ProviderSettings, *, environ: Mapping[str, str], home: str, toml: str, diagnostics: Diagnostics
) -> ProviderSettings:
    """The provider with its secrets and paths resolved; what is wrong with it goes to the notes."""
    at: KeyPath = ("providers", name)
    if not _PROVIDER_NAME.fullmatch(name):
        diagnostics.add_error(at, "not a name for a provider", "letters, digits, -, _ and ., a letter or digit first")
    for key in _UNUSED_KEYS[provider.kind]:
        if getattr(provider, key):
            diagnostics.add_error((*at, key), f'kind = "{provider.kind}" has no use for it', "take it out")
    for index, model in enumerate(provider.models):
        if not model.strip() or model in provider.models[:index]:
            diagnostics.add_error((*at, "models", index), "listed twice" if model.strip() else "is empty")
    if provider.kind == "openai":
        return _resolve_remote(provider, environ=environ, home=home, toml=toml, key_path=at, diagnostics=diagnostics)
    if provider.path:
        path = expand(provider.path, environ, base=home)
        if not os.path.isfile(path):
            diagnostics.add_error((*at, "path"), f"there is no file {path}")
        return replace(provider, path=path)
    if provider.kind == "scripted":
        diagnostics.add_error((*at, "path"), "missing", "a scripted provider plays the script at path")
    return provider


def _resolve_remote(
    provider: ProviderSettings,
    *,
    environ: Mapping[str, str],
    home: str,
    toml: str,
    key_path: KeyPath,
    diagnostics: Diagnostics,
) -> ProviderSettings:
    base_url = provider.base_url or OPENAI_URL
    _check_url(base_url, (*key_path, "base_url"), diagnostics)
    headers = {}
    for name, value in provider.headers.items():
        path = (*key_path, "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            diagnostics.add_error(path, "not a name for a header")
        headers[name] = expand_variables(value, environ, path, diagnostics)
    key, file = provider.api_key, provider.api_key_file
    if key is not None:
        if "${" not in key.reveal() and not is_private(toml):
            diagnostics.add_warning(
                (*key_path, "api_key"), f"others may read {toml}", f'chmod 600 {toml}, or write "${{NAME}}"'
            )
        if file:
            diagnostics.add_error((*key_path, "api_key_file"), "there is an api_key too", "keep one of the two")
        key = expand_variables(key, environ, (*key_path, "api_key"), diagnostics)
    elif file:
        file, key = read_secret_file(file, environ, home, (*key_path, "api_key_file"), diagnostics)
    elif base_url == OPENAI_URL:
        diagnostics.add_warning(key_path, f"no api_key: {OPENAI_URL} will refuse", 'api_key = "${OPENAI_API_KEY}"')
    return replace(provider, base_url=base_url, headers=headers, api_key=key, api_key_file=file)


def _check_url(url: str, key_path: KeyPath, diagnostics: Diagnostics) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        usable = False
    if not usable or re.search(r"\s", url):
        diagnostics.add_error(key_path, "not an http or https URL", f'such as "{OPENAI_URL}"')
    elif "@" in parts.netloc:
        diagnostics.add_error(key_path, "a URL here may not carry a password", "use api_key or headers")
    elif parts.query or parts.fragment:
        diagnostics.add_error(key_path, "a URL here has no ? or #", "paths are put after it")


def check_models(
    providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings], diagnostics: Diagnostics
) -> None:
    """No model is listed by two providers; [models] speaks of models that exist, and of what is read there."""
    listed: dict[str, str] = {}
    for name, provider in providers.items():
        for index, model in enumerate(model_names(name, provider)):
            if listed.setdefault(model, name) != name:
                at: KeyPath = ("providers", name, "models", index) if provider.models else ("providers", name)
                hint = f"keep it in one; {name}/{model} can be named without being listed"
                diagnostics.add_error(at, f"{model} is a model of {listed[model]} and of {name}", hint)
    for model, settings in models.items():
        owner = find_provider(model, providers)
        if owner is None:
            if providers:
                diagnostics.add_warning(
                    ("models", model), "no provider has this model", nearest_model_hint(model, providers)
                )
        elif settings.context_window is not None and providers[owner].kind != "local":
            window: KeyPath = ("models", model, "context_window")
            diagnostics.add_error(window, "not available yet but for models of a local provider", "take it out")
