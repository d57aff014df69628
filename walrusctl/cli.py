"""walrusctl: the root of the command line. Commands are loaded when they are named; see commands/, a file a noun."""

import os
import sys
from io import TextIOWrapper

import click

from walrus_protocol import wire
from walrusctl.click_base import EXIT_BROKEN_PIPE, RootGroup, common_options
from walrusctl.output import BestEffortStderr, print_error, redirect_to_devnull

COMMANDS = {
    "ping": "walrusctl.commands.daemon:ping",
    "status": "walrusctl.commands.daemon:status",
    "metrics": "walrusctl.commands.daemon:metrics",
    "agent": "walrusctl.commands.agent:agent",
    "session": "walrusctl.commands.session:session",
    "send": "walrusctl.commands.send:send",
    "stream": "walrusctl.commands.send:stream",
    "run": "walrusctl.commands.send:run",
    "events": "walrusctl.commands.events:events",
    "tool": "walrusctl.commands.tool:tool",
    "schedule": "walrusctl.commands.schedule:schedule",
    "config": "walrusctl.commands.config:config",
    "doctor": "walrusctl.commands.doctor:doctor",
    "gc": "walrusctl.commands.gc:gc",
    "verify": "walrusctl.commands.verify:verify",
    "service": "walrusctl.commands.service:service",
    "logs": "walrusctl.commands.logs:logs",
    "reload": "walrusctl.commands.reload:reload",
}

EXIT_CODES = """\
\b
Exit codes:
  0  the agent answered     7  timeout
  1  internal error         8  interrupted
  2  usage                  9  provider error
  3  not found             10  max iterations
  4  walrusd unreachable   11  no action
  5  denied                12  busy
  6  budget               130  Ctrl-C
"""


@click.command(
    cls=RootGroup,
    lazy=COMMANDS,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common_options
@click.version_option(package_name="walrusd", prog_name="walrusctl")
def cli() -> None:
    """Talk to walrusd, the daemon that runs your agents.

    What a command answers goes to stdout, and nothing else does; what is said about it goes to stderr.
    """


def main() -> None:
    """The command line as a process: its last flush is here, where a failure of it can still be told."""
    # Closed ones are opened, or the next file or socket would take their place.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - open to the end
    if isinstance(sys.stderr, TextIOWrapper):
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = BestEffortStderr(sys.stderr.detach(), encoding=encoding, errors=errors, line_buffering=True)
    if sys.stdout is None:
        print_error("cannot write the answer: stdout is closed", "send it to /dev/null where nobody wants it")
        sys.exit(wire.EXIT_INTERNAL)  # before anything was asked
    try:
        try:
            cli(prog_name="walrusctl")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        redirect_to_devnull(sys.stdout)
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.filename is not None:
            raise  # a file, and not the answer
        redirect_to_devnull(sys.stdout)
        print_error(f"cannot write the answer: {error.strerror}")
        sys.exit(wire.EXIT_INTERNAL)
