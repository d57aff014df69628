"""Resolves a model name from walrus.toml to a provider and the provider's own model name. Pure."""

from collections.abc import Mapping
from difflib import get_close_matches

from msgspec import Struct

from walrus_config.schema import ModelSettings, ProviderSettings
from walrusd.ports import ModelFailed


class ResolvedModel(Struct, frozen=True):
    """The provider that a model name resolved to, and the model."""

    provider: str
    model: str
    """The name that is sent to the provider."""


class Catalog:
    """The names of all configured models.

    A provider of kind local, scripted or echo that lists no models is one model, named like the provider.
    """

    def __init__(self, providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings]) -> None:
        self._providers = providers
        self._models = models
        self._by_name = {
            name: ResolvedModel(name, name)
            for name, settings in providers.items()
            if settings.kind != "openai" and not settings.models
        }
        for name, settings in providers.items():
            self._by_name |= {model: ResolvedModel(name, model) for model in settings.models}

    def names(self, provider: str) -> tuple[str, ...]:
        """Returns the models that walrus.toml lists for a provider."""
        return tuple(name for name, resolved in self._by_name.items() if resolved.provider == provider)

    def settings(self, resolved: ResolvedModel) -> ModelSettings:
        """Returns the settings of a model: [models."provider/model"] takes precedence over [models."model"]."""
        exact = self._models.get(f"{resolved.provider}/{resolved.model}")
        return exact or self._models.get(resolved.model) or ModelSettings()

    def context_window(self, provider: str) -> int | None:
        """Returns the largest context_window that is set for a model of the provider."""
        windows = (self.settings(ResolvedModel(provider, model)).context_window for model in self.names(provider))
        return max(filter(None, windows), default=None)

    def resolve(self, name: str) -> ResolvedModel:
        """Resolves a name: first as the full name of a model, then as provider/model, split at the first "/".

        An empty name resolves to the only configured model. Raises ModelFailed.
        """
        if not name:
            return self._only_model()
        if found := self._by_name.get(name):
            return found
        provider, _, model = name.partition("/")
        if provider in self._providers and model:
            return ResolvedModel(provider, model)
        near = get_close_matches(name, self._all_names(), n=1)
        guess = f"Did you mean {near[0]}? " if near else ""
        raise ModelFailed(
            "model_not_found", f"No provider has a model called {name}.", f"{guess}{self._available_text()}"
        )

    def _only_model(self) -> ResolvedModel:
        if len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        raise ModelFailed(
            "model_not_found",
            "The agent names no model, and there is no default.",
            f"Set model in [defaults] or in the agent's table in walrus.toml. {self._available_text()}",
        )

    def _all_names(self) -> list[str]:
        return [*self._by_name, *(f"{resolved.provider}/{resolved.model}" for resolved in self._by_name.values())]

    def _available_text(self) -> str:
        if not self._by_name:
            return f"Name it as provider/model. Configured providers: {', '.join(self._providers)}."
        return f"Available models: {', '.join(self._by_name)}."
