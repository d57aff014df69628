"""Opens the models of a configuration, with a spawner for the engines of local models."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from walrus_config.schema import ModelSettings, ProviderSettings
from walrusd.host.spawner import Spawner
from walrusd.providers.registry import Models, open_models


@asynccontextmanager
async def open_models_with_spawner(
    providers: Mapping[str, ProviderSettings], models: Mapping[str, ModelSettings], **options: Any
) -> AsyncIterator[Models]:
    """Yields the opened models; `options` are passed on to `open_models`."""
    async with Spawner(0o077) as spawner, open_models(providers, models, spawner=spawner, **options) as opened:
        yield opened
