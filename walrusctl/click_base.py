"""The shared base of all commands: lazy loading, option types, common options, failure handling."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

from walrus_protocol import wire
from walrus_protocol.client import RequestFailed, TimedOut, Unreachable
from walrusctl.context import CliContext, CommandFailed, pass_cli_context
from walrusctl.hint_wording import as_cli_options, strip_method_names
from walrusctl.output import print_error, print_json, redirect_to_devnull

Number = TypeVar("Number", bound=float)
EXIT_BROKEN_PIPE = 141
"""Exit status that a shell reports for a program ended by SIGPIPE."""


class BoundedNumber(click.ParamType[Number]):
    """A number whose bounds appear in errors, but not in --help, where click shows `[0<x<=5]`."""

    def __init__(self, number_type: click.ParamType[Number]) -> None:
        self._number_type: click.ParamType[Number] = number_type
        self.name = number_type.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Number:
        number: Number = self._number_type.convert(value, param, ctx)
        return number


class SessionId(click.IntRange):
    name = "session id"


class Seconds(click.FloatRange):
    name = "number of seconds"

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        assert isinstance(seconds, float)
        if math.isnan(seconds):  # a comparison with a bound does not reject it
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return seconds


class BoundedText(click.ParamType[str]):
    """A text with a minimum and a maximum number of characters."""

    name = "text"

    def __init__(self, min_length: int, max_length: int) -> None:
        self._min_length, self._max_length = min_length, max_length

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._min_length <= len(value) <= self._max_length:
            self.fail(
                f"it has {len(value)} characters; {self._min_length} to {self._max_length} are allowed.", param, ctx
            )
        return value


SESSION = BoundedNumber(SessionId(1, 2**53 - 1))
OFFSET = BoundedNumber(click.IntRange(0, 2**53 - 1))
"""An offset or seq; 2^53 - 1 is the largest integer of the protocol."""
LIMIT = BoundedNumber(click.IntRange(1))
SECONDS = BoundedNumber(Seconds(min=0, min_open=True, max=31_536_000))
"""A duration as the protocol allows it: at most a year."""
KEY = BoundedText(1, 256)
"""A key or the name of a checkpoint, with the protocol's bounds."""
SHORT_TEXT = BoundedText(0, 1024)
"""A title or the name of a person or program, with the protocol's bounds."""


def command(*examples: str) -> Callable[[Callable[..., object]], click.Command]:
    """Makes a function of the CliContext a command with the common options, and lists examples in its help.

    The command has the function's name; a final _ avoids a name of Python and is removed.
    """

    def decorate(function: Callable[..., object]) -> click.Command:
        name = function.__name__.rstrip("_")
        return _complete(click.command(name)(pass_cli_context(function)), examples)

    return decorate


def group(*examples: str, lazy: Mapping[str, str]) -> Callable[[Callable[[], None]], click.Command]:
    """Makes a function a group of the commands `lazy`, with the common options and examples."""
    return lambda function: _complete(click.command(cls=LazyGroup, lazy=lazy)(function), examples)


def lazy_commands(*where: str) -> dict[str, str]:
    """Returns commands for a LazyGroup by name; each is given as `module:function`, a module of commands/."""
    return {place.partition(":")[2].rstrip("_"): f"walrusctl.commands.{place}" for place in where}


def _complete(made: click.Command, examples: Sequence[str]) -> click.Command:
    made.epilog = "\n".join(
        ["\b", "Examples:" if examples[1:] else "Example:", *(f"  {example}" for example in examples)]
    )
    made.params += common_options()
    return made


def common_options() -> list[click.Option]:
    """Returns --home, --socket, --json and --timeout; they may stand before a command's name or after it."""
    return [
        _common_option("--home", metavar="FOLDER", help="The home of walrusd. [$WALRUS_HOME or ~/.openwalrus]"),
        _common_option("--socket", metavar="PATH", help="The socket of walrusd. [$WALRUS_SOCKET or the home's]"),
        _common_option(
            "--json", is_flag=True, default=None, help="Print JSON: one object, or one per line for streams."
        ),
        _common_option(
            "--timeout",
            metavar="SECONDS",
            type=SECONDS,
            help="Exit 7 without an answer in time. [5 for most commands]",
        ),
    ]


def _common_option(flag: str, **attributes: Any) -> click.Option:
    return click.Option([flag], expose_value=False, callback=_store_option, **attributes)


def _store_option(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        setattr(context.ensure_object(CliContext), str(parameter.name), value)


class LazyGroup(click.Group):
    """A group that imports a command only when it is used. `lazy` maps a name to `module:attribute`."""

    def __init__(self, *args: object, lazy: Mapping[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed through: click checks them
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
    """The root group: lists commands in sections, and turns failures into messages and exit codes."""

    def __init__(self, *args: object, sections: Mapping[str, Mapping[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        size = max(map(len, self.list_commands(ctx)))
        for title, names in self._sections.items():
            with formatter.section(title):
                commands = ((name, self.get_command(ctx, name)) for name in names)
                rows = [
                    (f"{name:{size}}", command.get_short_help_str(formatter.width))
                    for name, command in commands
                    if command
                ]
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        cli_context = ctx.ensure_object(CliContext)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where BrokenPipeError is handled without a message
        except RequestFailed as error:
            print_error(error.message, as_cli_options(error.hint))
            _print_json_error(error.code, error.kind, error.message, error.hint, as_json=cli_context.json)
            raise click.exceptions.Exit(wire.exit_code_for_error(error.code, error.kind)) from None
        except CommandFailed as error:
            print_error(str(error), error.hint)
            if cli_context.json:
                print_json({"error": {"message": str(error), "hint": error.hint}})
            raise click.exceptions.Exit(error.status) from None
        except Unreachable as error:
            hint = cli_context.unreachable_hint(error)
            print_error(strip_method_names(error.message), hint)
            _print_json_error(None, "unreachable", error.message, hint, as_json=cli_context.json)
            raise click.exceptions.Exit(wire.EXIT_UNREACHABLE) from None
        except TimedOut as error:
            print_error(strip_method_names(str(error)), cli_context.timeout_hint)
            _print_json_error(None, "timeout", str(error), cli_context.timeout_hint, as_json=cli_context.json)
            raise click.exceptions.Exit(wire.EXIT_TIMEOUT) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(wire.EXIT_CTRL_C) from None
        except BrokenPipeError:
            redirect_to_devnull(sys.stdout)
            raise click.exceptions.Exit(EXIT_BROKEN_PIPE) from None
        return result


def _print_json_error(code: int | None, kind: str, message: str, hint: str, *, as_json: bool) -> None:
    """Prints a failure as the protocol's error object for --json; `code` is None for local failures."""
    if as_json:
        print_json({"error": {"code": code, "kind": kind, "message": message, "hint": hint}})
