"""Handlers of config.get and config.check."""

import os

import trio

from walrus_config.load import ConfigError, load, mask_secrets
from walrus_protocol.methods import ConfigCheckResult, ConfigResult
from walrus_protocol.param_types import NoParams
from walrusd.rpc.request_context import DaemonServices, RequestContext


def get(services: DaemonServices, _: NoParams) -> ConfigResult:
    """Returns the configuration in force, with its secrets masked."""
    config = services.config()
    return ConfigResult(path=config.path, config=mask_secrets(config), warnings=config.warnings)


async def check(context: RequestContext, _: NoParams) -> ConfigCheckResult:
    """Loads the files as they are now and returns the errors or warnings. Changes nothing."""
    running = context.services.config()

    def load_candidate() -> ConfigCheckResult:
        try:
            candidate = load(running.home, environ=os.environ)
        except ConfigError as error:
            return ConfigCheckResult(
                ok=False,
                path=running.path,
                message=str(error),
                hint="Fix the file. The daemon keeps its current configuration.",
            )
        return ConfigCheckResult(ok=True, path=candidate.path, warnings=candidate.warnings)

    return await trio.to_thread.run_sync(load_candidate)
