"""Resolves and checks [providers] and [models], and determines the provider of a model's name."""

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
"""Keys that a kind of provider does not read.

They are refused, because ignoring one would be misleading.
"""


def model_names(name: str, provider: ProviderSettings) -> tuple[str, ...]:
    """Returns the names of a provider's models; a provider that is one model has its own name."""
    return provider.models or (() if provider.kind == "openai" else (name,))


def find_provider(model: str, providers: Mapping[str, ProviderSettings]) -> str | None:
    """Returns the provider of a model, or None.

    A provider with the whole name is preferred to one that is named before the first slash.
    """
    for name, provider in providers.items():
        if model in model_names(name, provider):
            return name
    prefix, slash, rest = model.partition("/")
    return prefix if slash and rest and prefix in providers else None


def nearest_model_hint(model: str, providers: Mapping[str, ProviderSettings]) -> str:
    """Returns a hint for a model name without a provider."""
    return did_you_mean(
        model, [model for name, provider in providers.items() for model in model_names(name, provider)]
    ) or ("list it in the models of a provider, or write provider/model")


def resolve_provider(
    name: str, provider: ProviderSettings, *, environ: Mapping[str, str], home: str, toml: str, diagnostics: Diagnostics
) -> ProviderSettings:
    """Returns the provider with resolved secrets and paths; adds errors and warnings to `diagnostics`."""
    at: KeyPath = ("providers", name)
    if not _PROVIDER_NAME.fullmatch(name):
        rule = "use letters, digits, -, _ and ., beginning with a letter or digit"
        diagnostics.add_error(at, "not a valid provider name", rule)
    for key in _UNUSED_KEYS[provider.kind]:
        if getattr(provider, key):
            diagnostics.add_error((*at, key), f'kind = "{provider.kind}" does not use it', "remove it")
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
        diagnostics.add_error((*at, "path"), "missing", "set it to the file with the scripted answers")
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
            diagnostics.add_error(path, "not a valid header name")
        headers[name] = expand_variables(value, environ, path, diagnostics)
    key, file = provider.api_key, provider.api_key_file
    if key is not None:
        if "${" not in key.reveal() and not is_private(toml):
            diagnostics.add_warning(
                (*key_path, "api_key"), f"others may read {toml}", f'chmod 600 {toml}, or write "${{NAME}}"'
            )
        if file:
            diagnostics.add_error((*key_path, "api_key_file"), "api_key is set too", "keep one of the two")
        key = expand_variables(key, environ, (*key_path, "api_key"), diagnostics)
    elif file:
        file, key = read_secret_file(file, environ, home, (*key_path, "api_key_file"), diagnostics)
    elif base_url == OPENAI_URL:
        message = f"no api_key is set, so {OPENAI_URL} will refuse requests"
        diagnostics.add_warning(key_path, message, 'add api_key = "${OPENAI_API_KEY}"')
    return replace(provider, base_url=base_url, headers=headers, api_key=key, api_key_file=file)


def _check_url(url: str, key_path: KeyPath, diagnostics: Diagnostics) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, a port that is not a number
        usable = False
    if not usable or re.search(r"\s", url):
        diagnostics.add_error(key_path, "not an http or https URL", f'for example "{OPENAI_URL}"')
    elif "@" in parts.netloc:
        diagnostics.add_error(key_path, "the URL must not contain a password", "use api_key or headers")
    elif parts.query or parts.fragment:
        diagnostics.add_error(key_path, "the URL must not contain ? or #", "paths are appended to it")


def check_models(
    providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings], diagnostics: Diagnostics
) -> None:
    """Checks that no two providers list the same model, and that the entries of [models] are valid."""
    listed: dict[str, str] = {}
    for name, provider in providers.items():
        for index, model in enumerate(model_names(name, provider)):
            if listed.setdefault(model, name) != name:
                at: KeyPath = ("providers", name, "models", index) if provider.models else ("providers", name)
                hint = f"keep it in one of them; {name}/{model} works without being listed"
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
            diagnostics.add_error(window, "available only for models of a local provider", "remove it")
