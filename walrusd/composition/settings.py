"""Components that only take new settings: log level and secrets, and the limits of retention."""

from msgspec import Struct

from walrus_config.schema import Config
from walrusd.composition.component import Prepared
from walrusd.observability.logging import set_log_level
from walrusd.observability.redaction import Redaction
from walrusd.observability.secrets import collect_secrets
from walrusd.retention.collector import RetentionCollector


class LogSettings(Struct, frozen=True):
    """The log level, and the secrets that are redacted."""

    redact: Redaction

    async def prepare(self, config: Config) -> Prepared:
        secrets = collect_secrets(config)

        def commit() -> None:
            self.redact.update_secrets(secrets)
            set_log_level(config.daemon.log_level)

        return Prepared(commit=commit)


class RetentionSettings(Struct, frozen=True):
    """The limits that retention enforces: it reads the configuration in force, and looks at new ones at once."""

    collector: RetentionCollector

    async def prepare(self, _: Config) -> Prepared:
        return Prepared(commit=self.collector.request)
