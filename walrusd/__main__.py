"""The command line of walrusd: parses options, loads the configuration and runs the daemon."""

import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import trio

from walrus_config.errors import ConfigError
from walrus_config.load import load
from walrus_config.paths import check_home, home_path, home_paths, prepare_home, socket_path
from walrus_config.scaffold import scaffold
from walrus_protocol.wire import EXIT_BAD_CONFIG, EXIT_INTERNAL
from walrusd import __version__
from walrusd.composition.components import StartupOptions
from walrusd.daemon import serve
from walrusd.host.resource_limits import hint_for_oserror
from walrusd.host.sd_notify import Notify
from walrusd.host.signals import ignore_early_sighup
from walrusd.host.socket_activation import take_activation_socket
from walrusd.host.startup_error import StartupFailed
from walrusd.host.watchdog import enable_faulthandler
from walrusd.observability.logging import NonBlockingStderr, configure_logging
from walrusd.store.errors import DatabaseUnusable, StorageFailed

E = TypeVar("E", bound=BaseException)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="DIR", help="Home folder. Default: WALRUS_HOME, else ~/.openwalrus.")
@click.option(
    "--socket",
    metavar="PATH",
    help="Socket. Default: WALRUS_SOCKET, else `socket` in [daemon], else walrus.sock in the home.",
)
@click.option("--init", is_flag=True, help="First create the home and a commented walrus.toml if they do not exist.")
@click.version_option(__version__, prog_name="walrusd")
def main(home: str | None, socket: str | None, *, init: bool) -> None:
    """Run agents in the foreground, until TERM or Ctrl-C.

    Example: walrusd --init

    Exit status: 0 stopped, 75 already running on this home, 78 a configuration or a database that cannot be used,
    1 any other error.
    """
    started = time.monotonic()
    enable_faulthandler()
    ignore_early_sighup()
    notify = Notify.from_environ(os.environ)
    try:
        inherited_socket = take_activation_socket(os.environ)
        home_folder = home_path(home, os.environ)
        if init:
            prepare_home(home_folder)
            for created in scaffold(home_folder):
                NonBlockingStderr().msg(f"walrusd: created {created}")
        check_home(home_folder)
        config = load(home_folder, environ=os.environ)
        path = socket_path(socket, os.environ, home_folder, configured=config.daemon.socket)
    except ConfigError as error:
        sys.exit(_print_error(error, EXIT_BAD_CONFIG))
    except StartupFailed as failed:
        sys.exit(_print_error(failed, failed.exit_status, failed.hint))
    umask = os.umask(0o077)
    redact = configure_logging(config)
    options = StartupOptions(
        config=config,
        socket=path,
        started_at=started,
        redact=redact,
        umask=umask,
        notify=notify,
        inherited_socket=inherited_socket,
        home_used_before=os.path.exists(home_paths(home_folder).lock),
    )
    sys.exit(_run_daemon(lambda: serve(options)))


def _run_daemon(daemon: Callable[[], Awaitable[None]]) -> int:
    """Runs the daemon and returns its exit status.

    An error that a person can fix is printed as a line with a hint. Any other exception is a bug and passes through,
    with its traceback.
    """
    status = 0
    try:
        trio.run(daemon)
    except* StartupFailed as group:
        failed = _first_exception(group)
        status = _print_error(failed, failed.exit_status, failed.hint)
    except* StorageFailed as group:
        failure = _first_exception(group)
        # The status lets a service retry errors that pass by themselves, and give up if the database needs a repair.
        needs_repair = isinstance(failure, DatabaseUnusable) and not failure.transient
        status = _print_error(failure, EXIT_BAD_CONFIG if needs_repair else EXIT_INTERNAL, failure.hint)
    except* OSError as group:
        error = _first_exception(group)
        if not (hint := hint_for_oserror(error)):
            raise
        status = _print_error(error, EXIT_INTERNAL, hint)
    return status


def _first_exception(group: BaseExceptionGroup[E]) -> E:
    error = group.exceptions[0]
    return _first_exception(error) if isinstance(error, BaseExceptionGroup) else error


def _print_error(error: BaseException, status: int, hint: str = "") -> int:
    """Prints the error and its hint to stderr, if there is one, and returns `status`."""
    NonBlockingStderr().msg(f"walrusd: {error}" + (f"\n  {hint}" if hint else ""))
    return status


if __name__ == "__main__":
    main()
