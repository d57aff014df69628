"""The tables [models.NAME], and the names of models: which provider has a model."""

import json
from collections.abc import Mapping

from walrus_config.diagnostics import Diagnostics
from walrus_config.errors import did_you_mean
from walrus_config.schema.agents import AgentSettings, BaseAgentSettings
from walrus_config.schema.providers import ProviderSettings
from walrus_config.schema.section import Count, NonNegative, Section
from walrus_config.toml_positions import KeyPath


class PriceSettings(Section, frozen=True, kw_only=True):
    """Prices in US dollars per million tokens."""

    input: NonNegative = 0.0
    output: NonNegative = 0.0
    cache_read: NonNegative | None = None
    """None: the same as `input`."""
    cache_write: NonNegative | None = None


class ModelSettings(Section, frozen=True, kw_only=True):
    unsupported_keys = ("fallback",)

    context_window: Count | None = None
    """Tokens of context that a local model is started with; other providers set their own."""
    max_output_tokens: Count | None = None
    price: PriceSettings | None = None
    """None: the price, and so the cost of a call, is unknown."""


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
                    ("models", model), "no provider has this model", _nearest_model_hint(model, providers)
                )
        elif settings.context_window is not None and providers[owner].kind != "local":
            window: KeyPath = ("models", model, "context_window")
            diagnostics.add_error(window, "available only for models of a local provider", "remove it")


def check_agent_models(
    defaults: BaseAgentSettings,
    tables: Mapping[str, BaseAgentSettings],
    agents: Mapping[str, AgentSettings],
    providers: Mapping[str, ProviderSettings],
    diagnostics: Diagnostics,
) -> None:
    """Checks that each model named in [defaults] and in the agents' tables has a provider.

    Without any provider, `load` gives one warning instead. `agents` are the complete agents.
    """
    if not providers:
        return
    named: dict[KeyPath, BaseAgentSettings] = {("defaults",): defaults}
    named |= {("agents", name): table for name, table in tables.items()}
    for at, table in named.items():
        if table.model and find_provider(table.model, providers) is None:
            message = f"no provider has the model {json.dumps(table.model)}"
            diagnostics.add_error((*at, "model"), message, _nearest_model_hint(table.model, providers))
    has_one_model = sum(len(model_names(name, provider)) for name, provider in providers.items()) == 1
    if not has_one_model and (without_model := [name for name, agent in agents.items() if not agent.model]):
        message = f"not set, and these agents name no model: {', '.join(without_model)}"
        diagnostics.add_warning(("defaults", "model"), message, "set one; until then these agents answer with an error")


def _nearest_model_hint(model: str, providers: Mapping[str, ProviderSettings]) -> str:
    """Returns a hint for a model name without a provider."""
    names = [model for name, provider in providers.items() for model in model_names(name, provider)]
    return did_you_mean(model, names) or "list it in the models of a provider, or write provider/model"
