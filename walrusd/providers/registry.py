"""The providers of walrus.toml as one Model: each name goes to its provider, each answer gets its price."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio
from msgspec.structs import replace

from walrus_config.schema import ModelSettings, Price, Provider
from walrus_protocol.content import Usage
from walrus_protocol.methods import ProviderStatus
from walrusd.ports import Model, ModelFailed, ModelRequest, Reply, Say
from walrusd.providers.catalog import Catalog, Resolved
from walrusd.providers.echo import Echo
from walrusd.providers.hints import OLLAMA_PORT, what_to_configure
from walrusd.providers.http import Http
from walrusd.providers.local import Local
from walrusd.providers.openai import OpenAI, endpoint
from walrusd.providers.scripted import ScriptFile


@asynccontextmanager
async def open_models(
    providers: Mapping[str, Provider],
    models: Mapping[str, ModelSettings],
    *,
    environ: Mapping[str, str] = os.environ,
    ollama_port: int = OLLAMA_PORT,
) -> AsyncIterator["Models"]:
    """The configured models. Nothing is opened or started before its first use; leaving it ends all that was.

    `environ` and `ollama_port` are where a hint looks for what could be configured.
    """
    catalog, http = Catalog(providers, models), Http()
    async with trio.open_nursery() as nursery:
        built = {name: _build(name, settings, catalog, http, nursery) for name, settings in providers.items()}
        try:
            yield Models(providers, catalog, built, environ=environ, ollama_port=ollama_port)
        finally:
            await http.aclose()
            nursery.cancel_scope.cancel()


def _build(name: str, settings: Provider, catalog: Catalog, http: Http, nursery: trio.Nursery) -> Model:
    def longest(model: str) -> int | None:
        return catalog.settings(Resolved(name, model)).max_output_tokens

    match settings.kind:
        case "openai":
            return OpenAI(endpoint(name, settings), http, max_output_tokens=longest)
        case "local":
            windows = [catalog.settings(Resolved(name, model)).context_window or 0 for model in catalog.names(name)]
            window = max(windows, default=0) or None
            return Local(name, settings, http, nursery, context_window=window, max_output_tokens=longest)
        case "scripted":
            return ScriptFile(settings.path)
        case "echo":
            return Echo()


class Models:
    """Fills the Model port."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        catalog: Catalog,
        built: Mapping[str, Model],
        *,
        environ: Mapping[str, str],
        ollama_port: int,
    ) -> None:
        self._providers = providers
        self._catalog = catalog
        self._built = built
        self._environ = environ
        self._ollama_port = ollama_port

    async def reply(self, request: ModelRequest, say: Say) -> Reply:
        """One answer of the model that the request names, with its cost. Raises ModelFailed."""
        if not self._providers:
            raise ModelFailed("no_provider", "No model provider is configured.", await self.hint())
        resolved = self._catalog.resolve(request.model)
        reply = await self._built[resolved.provider].reply(replace(request, model=resolved.model), say)
        price = self._catalog.settings(resolved).price
        cost = reply.cost_usd if price is None else cost_usd(price, reply.usage)
        return replace(reply, model=resolved.model, provider=resolved.provider, cost_usd=cost)

    def resolve(self, name: str) -> Resolved:
        """Which provider and model a name means; "" is the only model there is. Raises ModelFailed."""
        if not self._providers:
            raise ModelFailed("no_provider", "No model provider is configured.")
        return self._catalog.resolve(name)

    def status(self) -> tuple[ProviderStatus, ...]:
        return tuple(
            ProviderStatus(name=name, kind=settings.kind, models=self._catalog.names(name))
            for name, settings in self._providers.items()
        )

    async def hint(self) -> str:
        """What to write into walrus.toml on this machine, while no provider is configured; else ""."""
        return "" if self._providers else await what_to_configure(self._environ, self._ollama_port)


def cost_usd(price: Price, usage: Usage) -> float | None:
    """What the usage costs; None where the provider told no usage. Caching is priced as input unless it has its own."""
    if usage == Usage():
        return None
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    dollars = (
        usage.input * price.input + usage.output * price.output + usage.cache_read * read + usage.cache_write * write
    )
    return dollars / 1_000_000
