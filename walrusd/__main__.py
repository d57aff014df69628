"""The daemon's command line: flags → Config → trio.run."""

import os
import sys
import time
from collections.abc import Awaitable, Callable

import click
import trio

from walrus_config.load import load
from walrus_config.paths import check_home, home_path, paths, prepare_home, socket_path
from walrus_config.problems import ConfigError
from walrus_config.scaffold import scaffold
from walrus_protocol.wire import EXIT_ALREADY_RUNNING, EXIT_BAD_CONFIG, EXIT_INTERNAL
from walrusd import __version__
from walrusd.daemon import serve
from walrusd.host.activation import BadInheritance, inherited
from walrusd.host.notify import Notify
from walrusd.host.signals import outlive_early_hups
from walrusd.host.surroundings import TooFewFiles, what_to_do
from walrusd.host.watchdog import tell_where_it_stood
from walrusd.log import Stderr, configure
from walrusd.parts import Given
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

    Exit status: 0 stopped, 75 already running on this home, 78 a configuration or a database that cannot be used,
    1 anything else.
    """
    started = time.monotonic()
    tell_where_it_stood()
    outlive_early_hups()
    notify = Notify.from_environ(os.environ)
    try:
        socket_given = inherited(os.environ)
        where = home_path(home, os.environ)
        if init:
            prepare_home(where)
            for made in scaffold(where):
                Stderr().msg(f"walrusd: made {made}")
        check_home(where)
        config = load(where, environ=os.environ)
        at = socket_path(socket, os.environ, where, configured=config.daemon.socket)
    except (ConfigError, BadInheritance) as error:
        sys.exit(_say(error, EXIT_BAD_CONFIG))
    umask = os.umask(0o077)
    redact = configure(config)
    given = Given(
        config=config,
        socket=at,
        started=started,
        redact=redact,
        umask=umask,
        notify=notify,
        inherited=socket_given,
        used=os.path.exists(paths(where).lock),
    )
    sys.exit(_run(lambda: serve(given)))


def _run(daemon: Callable[[], Awaitable[None]]) -> int:
    """The exit status. What a person can mend is a line and a hint; anything else is a bug, with its traceback."""
    status = 0
    try:
        trio.run(daemon)
    except* AlreadyRunning as running:
        status = _say(_first(running), EXIT_ALREADY_RUNNING)
    except* ListenerRefused as group:
        refused = _first(group)
        # What passes by itself is worth another start; a service gives up at once where the configuration is at fault.
        status = _say(refused, EXIT_INTERNAL if getattr(refused, "passing", False) else EXIT_BAD_CONFIG)
    except* StorageFailed as failed:
        status = _say(_first(failed), EXIT_INTERNAL if getattr(_first(failed), "passing", True) else EXIT_BAD_CONFIG)
    except* TooFewFiles as few:
        status = _say(_first(few), EXIT_INTERNAL)
    except* OSError as failed:
        error = _first(failed)
        assert isinstance(error, OSError), "nothing else is caught here"
        if not (hint := what_to_do(error)):
            raise
        status = _say(error, EXIT_INTERNAL, hint)
    return status


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _say(error: BaseException, status: int, hint: str = "") -> int:
    """Name what is wrong and what to do, on stderr where there is one."""
    hint = hint or getattr(error, "hint", "")
    Stderr().msg(f"walrusd: {error}" + (f"\n  {hint}" if hint else ""))
    return status


if __name__ == "__main__":
    main()
