"""The root of the walrusctl command line. Imports a command's module only when the command is used.

The commands are in commands/, one file for each noun.
"""

import os
import sys
from io import TextIOWrapper

import click

from walrus_protocol import __version__, wire
from walrusctl.click_base import EXIT_BROKEN_PIPE, RootGroup, common_options, lazy_commands
from walrusctl.output import BestEffortStderr, print_error, redirect_to_devnull

SECTIONS = {
    "Sessions": lazy_commands(
        "send:run", "session:session", "send:send", "send:stream", "agent:agent", "tool:tool", "events:events"
    ),
    "Daemon": lazy_commands(
        "daemon:ping", "daemon:status", "daemon:metrics", "schedule:schedule", "config:config", "reload:reload"
    ),
    "Service": lazy_commands("service:service", "logs:logs"),
    "Database and diagnosis": lazy_commands("doctor:doctor", "gc:gc", "verify:verify"),
}
"""Sections of `walrusctl --help`: each maps the names of its commands to `module:attribute`."""
COMMANDS = {name: where for section in SECTIONS.values() for name, where in section.items()}

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
    sections=SECTIONS,
    epilog=EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=common_options(),
)
@click.version_option(__version__, prog_name="walrusctl")
def cli() -> None:
    """Talk to walrusd, the daemon that runs your agents.

    stdout carries only a command's answer. Notes, warnings and errors go to stderr.

    \b
    Examples:
      walrusctl run walrus "What can you do?"
      walrusctl send 1 "And what can you not do?"
      walrusctl COMMAND --help
    """


def main() -> None:
    """Runs the command line as a process; flushes stdout last, so that a failed write is still reported."""
    # Closed standard streams are opened, or the next file or socket would get their descriptors.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - open to the end
    if isinstance(sys.stderr, TextIOWrapper):
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = BestEffortStderr(sys.stderr.detach(), encoding=encoding, errors=errors, line_buffering=True)
    if sys.stdout is None:
        print_error("cannot write the answer: stdout is closed", "if you do not need it, redirect it to /dev/null")
        sys.exit(wire.EXIT_INTERNAL)  # before any request was sent
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
            raise  # it concerns a file and not the answer
        redirect_to_devnull(sys.stdout)
        print_error(f"cannot write the answer: {error.strerror}")
        sys.exit(wire.EXIT_INTERNAL)
