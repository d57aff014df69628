"""The providers of walrus.toml as one Model: each name goes to its provider, each answer gets its price."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio
from msgspec import Struct
from msgspec.structs import replace

from walrus_config.schema import ModelSettings, PriceSettings, ProviderSettings
from walrus_protocol.content import Usage
from walrus_protocol.methods.daemon import ProviderStatus
from walrusd.host.spawner import Spawner
from walrusd.ports import Model, ModelFailed, ModelRequest, OnChunk, Reply
from walrusd.providers.catalog import Catalog, ResolvedModel
from walrusd.providers.echo import Echo
from walrusd.providers.http import Http
from walrusd.providers.local import Local
from walrusd.providers.openai import OpenAI, build_endpoint
from walrusd.providers.scripted import ScriptFile
from walrusd.providers.setup_hints import OLLAMA_PORT, suggest_configuration


@asynccontextmanager
async def open_models(
    providers: Mapping[str, ProviderSettings],
    models: Mapping[str, ModelSettings],
    *,
    spawner: Spawner,
    environ: Mapping[str, str] = os.environ,
    ollama_port: int = OLLAMA_PORT,
) -> AsyncIterator["Models"]:
    """The configured models. Nothing is opened or started before its first use; leaving it ends all that was.

    `environ` and `ollama_port` are where a hint looks for what could be configured.
    """
    async with trio.open_nursery() as nursery:
        ground = ProviderDeps(http=Http(), nursery=nursery, spawner=spawner, environ=environ, ollama_port=ollama_port)
        try:
            yield Models(providers, models, ground)
        finally:
            await ground.http.aclose()
            nursery.cancel_scope.cancel()


class ProviderDeps(Struct, frozen=True, kw_only=True):
    """What all models of a daemon stand on, before a reload and after it."""

    http: Http
    nursery: trio.Nursery
    spawner: Spawner
    environ: Mapping[str, str]
    ollama_port: int


def _build_model(name: str, settings: ProviderSettings, catalog: Catalog, deps: ProviderDeps) -> Model:
    def longest(model: str) -> int | None:
        return catalog.settings(ResolvedModel(name, model)).max_output_tokens

    match settings.kind:
        case "openai":
            return OpenAI(build_endpoint(name, settings), deps.http, max_output_tokens=longest)
        case "local":
            windows = [
                catalog.settings(ResolvedModel(name, model)).context_window or 0 for model in catalog.names(name)
            ]
            window = max(windows, default=0) or None
            return Local(
                name,
                settings,
                deps.http,
                deps.nursery,
                deps.spawner,
                context_window=window,
                max_output_tokens=longest,
            )
        case "scripted":
            return ScriptFile(settings.path)
        case "echo":
            return Echo()


class Models:
    """Fills the Model port. What it is made of never changes: a reload makes another, and turns keep theirs."""

    def __init__(
        self,
        providers: Mapping[str, ProviderSettings],
        models: Mapping[str, ModelSettings],
        deps: ProviderDeps,
        reused: Mapping[str, Local] | None = None,
    ) -> None:
        """`engines`: local models that are taken as they are."""
        self._providers = providers
        self._catalog = Catalog(providers, models)
        self._deps = deps
        self._models_by_provider: dict[str, Model] = {
            name: (reused or {}).get(name) or _build_model(name, settings, self._catalog, deps)
            for name, settings in providers.items()
        }

    def with_configuration(
        self, providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings]
    ) -> "Models":
        """The models of another configuration; the engine of a local one that is as it was goes on. Starts nothing."""
        new = Catalog(providers, models)
        same = {
            name: built
            for name, built in self._models_by_provider.items()
            if isinstance(built, Local)
            and providers.get(name) == self._providers[name]
            and _token_limits(new, name) == _token_limits(self._catalog, name)
        }
        return Models(providers, models, self._deps, same)

    def retire_unshared(self, successor: "Models") -> None:
        """End the engines that the new ones do not share, each when the last call on it has ended."""
        for name, built in self._models_by_provider.items():
            if isinstance(built, Local) and successor._models_by_provider.get(name) is not built:  # noqa: SLF001 - one of its own kind
                built.retire()

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """One answer of the model that the request names, with its cost. Raises ModelFailed."""
        if not self._providers:
            raise ModelFailed("no_provider", "No model provider is configured.", await self.setup_hint())
        resolved = self._catalog.resolve(request.model)
        reply = await self._models_by_provider[resolved.provider].reply(
            replace(request, model=resolved.model), on_chunk
        )
        price = self._catalog.settings(resolved).price
        cost = reply.cost_usd if price is None else cost_usd(price, reply.usage)
        return replace(reply, model=resolved.model, provider=resolved.provider, cost_usd=cost)

    def resolve(self, name: str) -> ResolvedModel:
        """Which provider and model a name means; "" is the only model there is. Raises ModelFailed."""
        if not self._providers:
            raise ModelFailed("no_provider", "No model provider is configured.")
        return self._catalog.resolve(name)

    def status(self) -> tuple[ProviderStatus, ...]:
        return tuple(
            ProviderStatus(name=name, kind=settings.kind, models=self._catalog.names(name))
            for name, settings in self._providers.items()
        )

    async def setup_hint(self) -> str:
        """What to write into walrus.toml on this machine, while no provider is configured; else ""."""
        return "" if self._providers else await suggest_configuration(self._deps.environ, self._deps.ollama_port)


def _token_limits(catalog: Catalog, provider: str) -> list[tuple[int | None, int | None]]:
    """All that an engine is told about its models; prices are no concern of it."""
    found = [catalog.settings(ResolvedModel(provider, model)) for model in catalog.names(provider)]
    return [(settings.context_window, settings.max_output_tokens) for settings in found]


def cost_usd(price: PriceSettings, usage: Usage) -> float | None:
    """What the usage costs; None where the provider told no usage. Caching is priced as input unless it has its own."""
    if usage == Usage():
        return None
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    dollars = (
        usage.input * price.input + usage.output * price.output + usage.cache_read * read + usage.cache_write * write
    )
    return dollars / 1_000_000
