"""Handlers of config.get and config.check."""

import os
from collections.abc import Callable
from functools import partial

import trio

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.masked import mask_secrets
from walrus_config.schema import Config
from walrus_protocol.methods import ConfigCheckResult, ConfigResult
from walrus_protocol.param_types import NoParams
from walrusd.rpc.request_context import RequestContext
from walrusd.rpc.routes import Routes


def routes(active_config: Callable[[], Config]) -> Routes:
    """`active_config` returns the configuration in force."""
    return {"config.get": partial(get, active_config), "config.check": partial(check, active_config)}


def get(active_config: Callable[[], Config], _: RequestContext, __: NoParams) -> ConfigResult:
    """Returns the configuration in force, with its secrets masked."""
    config = active_config()
    return ConfigResult(path=config.path, config=mask_secrets(config), warnings=config.warnings)


async def check(active_config: Callable[[], Config], _: RequestContext, __: NoParams) -> ConfigCheckResult:
    """Loads the files as they are now and returns the errors or warnings. Changes nothing."""
    running = active_config()

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
