"""config.get and config.check."""

import os

import trio

from walrus_config.load import ConfigError, load, shown
from walrus_protocol.fields import NoParams
from walrus_protocol.methods import ConfigText, ConfigVerdict
from walrusd.rpc.call import Call, House


def get(house: House, _: NoParams) -> ConfigText:
    """The configuration in force; secrets are masked."""
    config = house.config()
    return ConfigText(path=config.path, config=shown(config), warnings=config.warnings)


async def check(call: Call, _: NoParams) -> ConfigVerdict:
    """What loading the files as they are now would say. Nothing changes."""
    running = call.house.config()

    def verdict() -> ConfigVerdict:
        try:
            candidate = load(running.home, environ=os.environ)
        except ConfigError as error:
            return ConfigVerdict(
                ok=False, path=running.path, message=str(error), hint="Mend the file; the daemon goes on as it is."
            )
        return ConfigVerdict(ok=True, path=candidate.path, warnings=candidate.warnings)

    return await trio.to_thread.run_sync(verdict)
