"""The daemon's command line: flags → Config → trio.run."""

import os
import sys
import time
from collections.abc import Awaitable, Callable

import click
import trio

from walrus_config.load import load
from walrus_config.paths import check_home, home_path, prepare_home, socket_path
from walrus_config.problems import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol.wire import EXIT_ALREADY_RUNNING, EXIT_BAD_CONFIG, EXIT_INTERNAL
from walrusd import __version__
from walrusd.daemon import serve
from walrusd.log import configure
from walrusd.rpc.listener import AlreadyRunning, ListenerRefused
from walrusd.store.log import StorageFailed


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="DIR", help="The home; else WALRUS_HOME, else ~/.openwalrus.")
@click.option(
    "--socket", metavar="PATH", help="The socket; else WALRUS_SOCKET, else [daemon] socket, else in the home."
)
@click.option("--init", is_flag=True, help="Make the home and a commented walrus.toml first, where there are none.")
@click.version_option(__version__, prog_name="walrusd")
def main(home: str | None, socket: str | None, *, init: bool) -> None:
    """Run agents in the foreground, until TERM or Ctrl-C.

    Exit status: 0 stopped, 75 already running on this home, 78 a configuration that cannot be used, 1 anything else.
    """
    started = time.time()
    try:
        where = home_path(home, os.environ)
        if init:
            prepare_home(where)
            for made in scaffold(where):
                click.echo(f"walrusd: made {made}", err=True)
        check_home(where)
        config = load(where, environ=os.environ)
        at = socket_path(socket, os.environ, where, configured=config.daemon.socket)
    except ConfigError as error:
        sys.exit(_say(error, EXIT_BAD_CONFIG))
    os.umask(0o077)
    configure(config)
    sys.exit(_run(lambda: serve(config, socket=at, started=started)))


def _run(daemon: Callable[[], Awaitable[None]]) -> int:
    """The exit status. What a person can mend is a line and a hint; anything else is a bug, with its traceback."""
    status = 0
    try:
        trio.run(daemon)
    except* AlreadyRunning as running:
        status = _say(running.exceptions[0], EXIT_ALREADY_RUNNING)
    except* ListenerRefused as refused:
        status = _say(refused.exceptions[0], EXIT_BAD_CONFIG)
    except* StorageFailed as failed:
        status = _say(failed.exceptions[0], EXIT_INTERNAL)
    return status


def _say(error: BaseException, status: int) -> int:
    """Name what is wrong and what to do, on stderr."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    hint = getattr(error, "hint", "")
    click.echo(f"walrusd: {error}" + (f"\n  {hint}" if hint else ""), err=True)
    return status


if __name__ == "__main__":
    main()
