"""The daemon's command line: flags → Config → trio.run."""

import os
import sys
import time
from collections.abc import Awaitable, Callable

import click
import trio

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.paths import check_home, home_path, home_paths, prepare_home, socket_path
from walrus_config.scaffold import scaffold
from walrus_protocol.wire import EXIT_ALREADY_RUNNING, EXIT_BAD_CONFIG, EXIT_INTERNAL
from walrusd import __version__
from walrusd.composition.components import StartupOptions
from walrusd.daemon import serve
from walrusd.host.resource_limits import FdLimitTooLow, hint_for_oserror
from walrusd.host.sd_notify import Notify
from walrusd.host.signals import ignore_early_sighup
from walrusd.host.socket_activation import InvalidActivation, take_activation_socket
from walrusd.host.watchdog import enable_faulthandler
from walrusd.observability.logging import NonBlockingStderr, configure_logging
from walrusd.rpc.listener import AlreadyRunning, ListenerSetupFailed
from walrusd.store.contract import StorageFailed


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
    enable_faulthandler()
    ignore_early_sighup()
    notify = Notify.from_environ(os.environ)
    try:
        socket_given = take_activation_socket(os.environ)
        where = home_path(home, os.environ)
        if init:
            prepare_home(where)
            for made in scaffold(where):
                NonBlockingStderr().msg(f"walrusd: made {made}")
        check_home(where)
        config = load(where, environ=os.environ)
        at = socket_path(socket, os.environ, where, configured=config.daemon.socket)
    except (ConfigError, InvalidActivation) as error:
        sys.exit(_print_error(error, EXIT_BAD_CONFIG))
    umask = os.umask(0o077)
    redact = configure_logging(config)
    given = StartupOptions(
        config=config,
        socket=at,
        started_at=started,
        redact=redact,
        umask=umask,
        notify=notify,
        inherited_socket=socket_given,
        home_used_before=os.path.exists(home_paths(where).lock),
    )
    sys.exit(_run_daemon(lambda: serve(given)))


def _run_daemon(daemon: Callable[[], Awaitable[None]]) -> int:
    """The exit status. What a person can mend is a line and a hint; anything else is a bug, with its traceback."""
    status = 0
    try:
        trio.run(daemon)
    except* AlreadyRunning as running:
        status = _print_error(_first_exception(running), EXIT_ALREADY_RUNNING)
    except* ListenerSetupFailed as group:
        refused = _first_exception(group)
        # What passes by itself is worth another start; a service gives up at once where the configuration is at fault.
        status = _print_error(refused, EXIT_INTERNAL if getattr(refused, "transient", False) else EXIT_BAD_CONFIG)
    except* StorageFailed as failed:
        status = _print_error(
            _first_exception(failed),
            EXIT_INTERNAL if getattr(_first_exception(failed), "transient", True) else EXIT_BAD_CONFIG,
        )
    except* FdLimitTooLow as few:
        status = _print_error(_first_exception(few), EXIT_INTERNAL)
    except* OSError as failed:
        error = _first_exception(failed)
        assert isinstance(error, OSError), "nothing else is caught here"
        if not (hint := hint_for_oserror(error)):
            raise
        status = _print_error(error, EXIT_INTERNAL, hint)
    return status


def _first_exception(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _print_error(error: BaseException, status: int, hint: str = "") -> int:
    """Name what is wrong and what to do, on stderr where there is one."""
    hint = hint or getattr(error, "hint", "")
    NonBlockingStderr().msg(f"walrusd: {error}" + (f"\n  {hint}" if hint else ""))
    return status


if __name__ == "__main__":
    main()
