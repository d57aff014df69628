"""[providers] and [models]: what each kind needs, its secrets resolved, and which provider a model's name means."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from msgspec.structs import replace

from walrus_config.lines import KeyPath
from walrus_config.notes import Notes
from walrus_config.paths import expand
from walrus_config.problems import did_you_mean
from walrus_config.schema import OPENAI_URL, ModelSettings, Provider
from walrus_config.secrets import from_environment, from_file, is_private

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REMOTE = ("base_url", "api_key", "api_key_file", "headers")
_USELESS: Mapping[str, tuple[str, ...]] = {
    "openai": ("path",),
    "local": _REMOTE,
    "scripted": _REMOTE,
    "echo": (*_REMOTE, "path"),
}
"""Keys that a kind would not read. To ignore one would be to break a promise."""


def models_of(name: str, provider: Provider) -> tuple[str, ...]:
    """The names by which a provider's models go without it: those it lists; one that is one model has its own."""
    return provider.models or (() if provider.kind == "openai" else (name,))


def provider_of(model: str, providers: Mapping[str, Provider]) -> str | None:
    """The provider that a model's name means: one that has the name whole, else the text before the first slash."""
    for name, provider in providers.items():
        if model in models_of(name, provider):
            return name
    prefix, slash, rest = model.partition("/")
    return prefix if slash and rest and prefix in providers else None


def nearest_model(model: str, providers: Mapping[str, Provider]) -> str:
    """A hint for a name that no provider knows."""
    return did_you_mean(
        model, [model for name, provider in providers.items() for model in models_of(name, provider)]
    ) or ("list it in the models of a provider, or write provider/model")


def settle_provider(
    name: str, provider: Provider, *, environ: Mapping[str, str], home: str, toml: str, notes: Notes
) -> Provider:
    """The provider with its secrets and paths resolved; what is wrong with it goes to the notes."""
    at: KeyPath = ("providers", name)
    if not _NAME.fullmatch(name):
        notes.refuse(at, "not a name for a provider", "letters, digits, -, _ and ., a letter or digit first")
    for key in _USELESS[provider.kind]:
        if getattr(provider, key):
            notes.refuse((*at, key), f'kind = "{provider.kind}" has no use for it', "take it out")
    for index, model in enumerate(provider.models):
        if not model.strip() or model in provider.models[:index]:
            notes.refuse((*at, "models", index), "listed twice" if model.strip() else "is empty")
    if provider.kind == "openai":
        return _remote(provider, environ=environ, home=home, toml=toml, at=at, notes=notes)
    if provider.path:
        path = expand(provider.path, environ, base=home)
        if not os.path.isfile(path):
            notes.refuse((*at, "path"), f"there is no file {path}")
        return replace(provider, path=path)
    if provider.kind == "scripted":
        notes.refuse((*at, "path"), "missing", "a scripted provider plays the script at path")
    return provider


def _remote(
    provider: Provider, *, environ: Mapping[str, str], home: str, toml: str, at: KeyPath, notes: Notes
) -> Provider:
    base_url = provider.base_url or OPENAI_URL
    _check_url(base_url, (*at, "base_url"), notes)
    headers = {}
    for name, value in provider.headers.items():
        path = (*at, "headers", name)
        if not _HEADER.fullmatch(name):
            notes.refuse(path, "not a name for a header")
        headers[name] = from_environment(value, environ, path, notes)
    key, file = provider.api_key, provider.api_key_file
    if key is not None:
        if "${" not in key.reveal() and not is_private(toml):
            notes.warn((*at, "api_key"), f"others may read {toml}", f'chmod 600 {toml}, or write "${{NAME}}"')
        if file:
            notes.refuse((*at, "api_key_file"), "there is an api_key too", "keep one of the two")
        key = from_environment(key, environ, (*at, "api_key"), notes)
    elif file:
        file, key = from_file(file, environ, home, (*at, "api_key_file"), notes)
    elif base_url == OPENAI_URL:
        notes.warn(at, f"no api_key: {OPENAI_URL} will refuse", 'api_key = "${OPENAI_API_KEY}"')
    return replace(provider, base_url=base_url, headers=headers, api_key=key, api_key_file=file)


def _check_url(url: str, at: KeyPath, notes: Notes) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, a port that is no number
        usable = False
    if not usable or re.search(r"\s", url):
        notes.refuse(at, "not an http or https URL", f'such as "{OPENAI_URL}"')
    elif "@" in parts.netloc:
        notes.refuse(at, "a URL here may not carry a password", "use api_key or headers")
    elif parts.query or parts.fragment:
        notes.refuse(at, "a URL here has no ? or #", "paths are put after it")


def check_models(providers: Mapping[str, Provider], models: Mapping[str, ModelSettings], notes: Notes) -> None:
    """No model is listed by two providers; [models] speaks of models that exist, and of what is read there."""
    listed: dict[str, str] = {}
    for name, provider in providers.items():
        for index, model in enumerate(models_of(name, provider)):
            if listed.setdefault(model, name) != name:
                at: KeyPath = ("providers", name, "models", index) if provider.models else ("providers", name)
                hint = f"keep it in one; {name}/{model} can be named without being listed"
                notes.refuse(at, f"{model} is a model of {listed[model]} and of {name}", hint)
    for model, settings in models.items():
        owner = provider_of(model, providers)
        if owner is None:
            if providers:
                notes.warn(("models", model), "no provider has this model", nearest_model(model, providers))
        elif settings.context_window is not None and providers[owner].kind != "local":
            window: KeyPath = ("models", model, "context_window")
            notes.refuse(window, "not available yet but for models of a local provider", "take it out")
