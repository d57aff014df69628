"""How commands are found and what they all share: lazy loading, the common options, one place where failures end."""

import math
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeVar

import click

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed, TimedOut, Unreachable
from walrusctl.context import CliContext
from walrusctl.hint_wording import as_cli_options, strip_method_names
from walrusctl.output import print_error, print_json, redirect_to_devnull

Decorated = TypeVar("Decorated", bound=Callable[..., object])
EXIT_BROKEN_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended."""


class SessionId(click.IntRange):
    name = "session id"


class Seconds(click.FloatRange):
    name = "number of seconds"

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        assert isinstance(seconds, float)
        if math.isnan(seconds):  # it compares with no bound
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return seconds


class BoundedText(click.ParamType[str]):
    """A text of so many characters, at least and at most."""

    name = "text"

    def __init__(self, min_length: int, max_length: int) -> None:
        self._min_length, self._max_length = min_length, max_length

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._min_length <= len(value) <= self._max_length:
            self.fail(
                f"it has {len(value)} characters, and {self._min_length} to {self._max_length} are allowed.", param, ctx
            )
        return value


SESSION = SessionId(1, 2**53 - 1)
SECONDS = Seconds(min=0, min_open=True, max=31_536_000)
"""What the protocol takes as a time: up to a year."""
KEY = BoundedText(1, 256)
SHORT_TEXT = BoundedText(0, 1024)
"""What the protocol takes as a key, or the name of a checkpoint; and as a title, or who somebody is."""


def common_options(command: Decorated) -> Decorated:
    """--home, --socket, --json and --timeout, which may stand before a command's name as well as after it."""
    for option in (
        click.option(
            "--timeout",
            metavar="SECONDS",
            type=SECONDS,
            expose_value=False,
            callback=_store_option,
            help="Wait this long for an answer, then exit 7. [5, or what the command may take]",
        ),
        click.option(
            "--json",
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_store_option,
            help="Print one JSON object; streams print one a line.",
        ),
        click.option(
            "--socket",
            metavar="PATH",
            expose_value=False,
            callback=_store_option,
            help="walrusd's socket. [WALRUS_SOCKET, else walrus.sock in the home]",
        ),
        click.option(
            "--home",
            metavar="FOLDER",
            expose_value=False,
            callback=_store_option,
            help="walrusd's home. [WALRUS_HOME, else ~/.openwalrus]",
        ),
    ):
        command = option(command)
    return command


def _store_option(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        setattr(context.ensure_object(CliContext), str(parameter.name), value)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for. `lazy` maps a name to `module:attribute`."""

    def __init__(self, *args: object, lazy: Mapping[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed through: click says what they are
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=self._lazy, ctx=ctx) from None


class RootGroup(LazyGroup):
    """The root group: what any command may fail with becomes a sentence on stderr and an exit code here."""

    def invoke(self, ctx: click.Context) -> object:
        asked = ctx.ensure_object(CliContext)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has gone can still be seen quietly
        except RequestFailed as error:
            print_error(error.message, as_cli_options(error.hint))
            _print_json_error(error.code, error.kind, error.message, error.hint, as_json=asked.json)
            raise click.exceptions.Exit(wire.exit_code_for_error(error.code, error.kind)) from None
        except Unreachable as error:
            hint = asked.unreachable_hint(error)
            print_error(strip_method_names(error.message), hint)
            _print_json_error(None, "unreachable", error.message, hint, as_json=asked.json)
            raise click.exceptions.Exit(wire.EXIT_UNREACHABLE) from None
        except TimedOut as error:
            print_error(strip_method_names(str(error)), asked.timeout_hint)
            _print_json_error(None, "timeout", str(error), asked.timeout_hint, as_json=asked.json)
            raise click.exceptions.Exit(wire.EXIT_TIMEOUT) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(wire.EXIT_CTRL_C) from None
        except BrokenPipeError:
            redirect_to_devnull(sys.stdout)
            raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None
        return result


def _print_json_error(code: int | None, kind: str, message: str, hint: str, *, as_json: bool) -> None:
    """A failure to a program that asked for JSON: in the words of the wire, which has no code for what is not its."""
    if as_json:
        print_json({"error": {"code": code, "kind": kind, "message": message, "hint": hint}})
