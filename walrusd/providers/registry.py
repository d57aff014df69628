"""The configured providers as one Model: routes requests by model name and prices the replies."""

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
from walrusd.ports import ModelFailed, ModelRequest, OnChunk, Reply
from walrusd.providers.catalog import Catalog, ResolvedModel
from walrusd.providers.echo import Echo
from walrusd.providers.http import Http
from walrusd.providers.local import Local
from walrusd.providers.openai import OpenAI, build_endpoint
from walrusd.providers.retry import Provider, exchange_with_retries
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
    """Yields the configured models; connections and engines start at first use and end with the block.

    `environ` and `ollama_port` are searched for providers that the setup hint can suggest.
    """
    async with trio.open_nursery() as nursery:
        deps = ProviderDeps(http=Http(), nursery=nursery, spawner=spawner, environ=environ, ollama_port=ollama_port)
        try:
            yield Models(providers, models, deps)
        finally:
            await deps.http.aclose()
            nursery.cancel_scope.cancel()


class ProviderDeps(Struct, frozen=True, kw_only=True):
    """The dependencies that all models of a daemon share; a reload keeps them."""

    http: Http
    nursery: trio.Nursery
    spawner: Spawner
    environ: Mapping[str, str]
    ollama_port: int


def _build_provider(name: str, settings: ProviderSettings, catalog: Catalog, deps: ProviderDeps) -> Provider:
    match settings.kind:
        case "openai":
            return OpenAI(build_endpoint(name, settings), deps.http)
        case "local":
            window = catalog.context_window(name)
            return Local(name, settings, deps.http, deps.nursery, deps.spawner, context_window=window)
        case "scripted":
            return ScriptFile(settings.path)
        case "echo":
            return Echo()


class Models:
    """Implements the Model port. Immutable: a reload builds a new one, running turns keep the old one."""

    def __init__(
        self,
        providers: Mapping[str, ProviderSettings],
        models: Mapping[str, ModelSettings],
        deps: ProviderDeps,
        reused: Mapping[str, Local] = {},
    ) -> None:
        """`reused`: local models to keep, with their running engines."""
        self._providers = providers
        self._catalog = Catalog(providers, models)
        self._deps = deps
        self._built: dict[str, Provider] = {
            name: reused.get(name) or _build_provider(name, settings, self._catalog, deps)
            for name, settings in providers.items()
        }

    def with_configuration(
        self, providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings]
    ) -> "Models":
        """Returns the models of another configuration. A local model with unchanged settings keeps its engine."""
        new = Catalog(providers, models)
        same = {
            name: built
            for name, built in self._built.items()
            if isinstance(built, Local)
            and providers.get(name) == self._providers[name]
            and new.context_window(name) == self._catalog.context_window(name)
        }
        return Models(providers, models, self._deps, same)

    def retire_unshared(self, successor: "Models") -> None:
        """Ends the engines that `successor` does not share, each when its last request has ended."""
        for name, built in self._built.items():
            if isinstance(built, Local) and successor._built.get(name) is not built:  # noqa: SLF001 - another instance of this class
                built.retire()

    async def reply(self, request: ModelRequest, on_chunk: OnChunk) -> Reply:
        """Returns a reply of the model that the request names, with its cost; retries failures that may be temporary.

        Raises ModelFailed.
        """
        if not self._providers:
            raise ModelFailed("no_provider", "No model provider is configured.", await self.setup_hint())
        resolved = self._catalog.resolve(request.model)
        settings = self._catalog.settings(resolved)
        max_tokens = request.max_output_tokens or settings.max_output_tokens
        reply = await exchange_with_retries(
            self._built[resolved.provider],
            replace(request, model=resolved.model, max_output_tokens=max_tokens),
            on_chunk,
            name=resolved.provider,
            max_retries=self._providers[resolved.provider].max_retries,
        )
        cost = reply.cost_usd if settings.price is None else cost_usd(settings.price, reply.usage)
        return replace(reply, model=resolved.model, provider=resolved.provider, cost_usd=cost)

    def resolve(self, name: str) -> ResolvedModel:
        """Resolves a model name; "" means the only configured model. Raises ModelFailed."""
        return self._catalog.resolve(name)

    def status(self) -> tuple[ProviderStatus, ...]:
        return tuple(
            ProviderStatus(name=name, kind=settings.kind, models=self._catalog.names(name))
            for name, settings in self._providers.items()
        )

    async def setup_hint(self) -> str:
        """Returns what to write into walrus.toml on this machine if no provider is configured, or ""."""
        return "" if self._providers else await suggest_configuration(self._deps.environ, self._deps.ollama_port)


def cost_usd(price: PriceSettings, usage: Usage) -> float | None:
    """Returns the cost of the usage, or None if the provider reported no usage.

    Cached tokens cost the price of input, unless they have a price of their own.
    """
    if usage == Usage():
        return None
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    dollars = (
        usage.input * price.input + usage.output * price.output + usage.cache_read * read + usage.cache_write * write
    )
    return dollars / 1_000_000
