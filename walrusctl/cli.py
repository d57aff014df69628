"""walrusctl: the root of the command line. Commands are loaded when they are named; see commands/, a file a noun."""

import click

from walrusctl.groups import CommandLine, common_options

COMMANDS = {
    "ping": "walrusctl.commands.daemon:ping",
    "status": "walrusctl.commands.daemon:status",
    "agent": "walrusctl.commands.agent:agent",
    "session": "walrusctl.commands.session:session",
    "send": "walrusctl.commands.turn:send",
    "stream": "walrusctl.commands.turn:stream",
    "run": "walrusctl.commands.turn:run",
    "config": "walrusctl.commands.config:config",
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
    cls=CommandLine,
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
    cli(prog_name="walrusctl")
