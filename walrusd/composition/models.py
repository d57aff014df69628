"""The component of the model providers."""

from walrus_config.schema import Config
from walrusd.composition.component import Prepared
from walrusd.providers.registry import Models


class ModelProviders:
    """The models in force. A reload keeps the engines of local models whose settings are unchanged."""

    def __init__(self, models: Models) -> None:
        self.active = models

    async def prepare(self, config: Config) -> Prepared:
        before, models = self.active, self.active.with_configuration(config.providers, config.models)
        hint = await models.setup_hint()

        def commit() -> None:
            self.active = models

        async def retire() -> tuple[str, ...]:  # noqa: ASYNC124 - other components wait here
            before.retire_unshared(models)
            return ()

        warnings = (f"No model provider is configured. {hint}",) if hint else ()
        return Prepared(commit=commit, retire=retire, warnings=warnings)
