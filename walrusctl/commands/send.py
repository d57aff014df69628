"""The commands `walrusctl send`, `stream`, `run` and `session resume`: one turn and its answer."""

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar, get_args

import click

from walrus_protocol import wire
from walrus_protocol.client import Json, RequestFailed, TimedOut, Unreachable
from walrus_protocol.vocabulary import WhenBusy
from walrusctl.click_base import KEY, SECONDS, SESSION, SHORT_TEXT, command
from walrusctl.context import CliContext
from walrusctl.event_printer import EventPrinter, OnEvent
from walrusctl.hint_wording import as_cli_options
from walrusctl.message_input import read_text
from walrusctl.output import print_answer, print_error, print_json, print_note

Decorated = TypeVar("Decorated", bound=Callable[..., object])
_INTERRUPT_TIMEOUT_S = 10
"""Seconds that Ctrl-C waits until the turn has stopped and is logged."""

_STOP_MESSAGES = {
    "max_iterations": (
        "the agent used up its rounds without a final answer",
        "send another message to continue, or raise max_iterations of the agent",
    ),
    "no_action": ("the model returned neither text nor tool calls", "send again, or try another model"),
    "interrupted": ("the turn was interrupted", ""),
    "budget_exceeded": ("the turn exceeded its budget", "raise the budget, or ask for less"),
}


def turn_options(command: Decorated) -> Decorated:
    """Adds the options of a turn and the argument TEXT."""
    for parameter in (
        click.option("--detach", is_flag=True, help="On Ctrl-C only stop waiting; the turn continues."),
        click.option(
            "--turn-timeout",
            "timeout_s",
            metavar="SECONDS",
            type=SECONDS,
            help="Stop the turn after this time, then exit 7.",
        ),
        click.option("--sender", type=SHORT_TEXT, metavar="NAME", help="The sender's name, which the model sees."),
        click.argument("text", required=False),
    ):
        command = parameter(command)
    return command


def session_options(command: Decorated) -> Decorated:
    """Adds the turn options, --when-busy, --key and SESSION; see `session.send` in protocol/README.md."""
    for parameter in (
        click.option(
            "--when-busy", type=click.Choice(get_args(WhenBusy)), help="What to do if a turn is running. [queue]"
        ),
        click.option(
            "--key", type=KEY, metavar="KEY", help="Send exactly once: a repeat prints the first answer again."
        ),
        turn_options,
        click.argument("session", type=SESSION),
    ):
        command = parameter(command)
    return command


@command('walrusctl send 3 "What is new?"', "git diff | walrusctl send 3")
@session_options
def send(ctx: CliContext, /, session: int, text: str | None, *, detach: bool, **options: object) -> None:
    """Send TEXT to SESSION and print only the answer.

    TEXT is read from stdin if it is `-`, or if it is left out and stdin is not a terminal. Put `--` before a TEXT that
    begins with a dash. Ctrl-C interrupts the turn. If the message is still queued, Ctrl-C only stops waiting, and the
    message stays queued.
    """
    params = _turn_params(text, options, session=session)
    _print_result(ctx, run_turn(ctx, "session.stream", params, _ignore_event, detach=detach))


@command('walrusctl stream 3 "Tell me more"', 'walrusctl stream 3 --json "Tell me more"')
@session_options
def stream(ctx: CliContext, /, session: int, text: str | None, *, detach: bool, **options: object) -> None:
    """Send TEXT to SESSION and print text as it arrives.

    Tool calls are shown on stderr. With --json each event is one line, and the last line is the result. TEXT from stdin
    and Ctrl-C work as with `send`.
    """
    params = _turn_params(text, options, session=session)
    if ctx.json:
        result = run_turn(ctx, "session.stream", params, _print_event, detach=detach)
        print_json(result)
        _exit_by_result(result)
    _stream_turn(ctx, "session.stream", params, detach=detach)


@command('walrusctl run walrus "What can you do?"')
@click.argument("agent")
@turn_options
@click.option("--title", type=SHORT_TEXT, metavar="TEXT", help="The session's title.")
def run(ctx: CliContext, /, agent: str, text: str | None, *, detach: bool, **options: object) -> None:
    """Send TEXT to AGENT in a new session.

    On a terminal the text is shown as it arrives, as with `stream`. In a pipe only the answer is printed, as with
    `send`.
    """
    params = _turn_params(text, options, agent=agent, created_by="cli")
    if ctx.json or not sys.stdout.isatty():
        _print_result(ctx, run_turn(ctx, "agent.run", params, _ignore_event, detach=detach))
    _stream_turn(ctx, "agent.run", params, detach=detach)


@command("walrusctl session resume 3")
@click.argument("session", type=SESSION)
@click.option("--detach", is_flag=True, help="On Ctrl-C only stop waiting; the turn continues.")
def resume(ctx: CliContext, session: int, *, detach: bool) -> None:
    """Continue the last turn of SESSION.

    For a turn that failed, was interrupted, or was abandoned because walrusd crashed twice while it ran. It prints only
    the answer.
    """
    try:
        result = ctx.call("session.resume", {"session": session}, timeout_s=None)
    except KeyboardInterrupt:
        if detach:
            print_note("no longer waiting; the turn continues")
        else:
            _interrupt_turn(ctx, session)
        raise
    _print_result(ctx, result)


def run_turn(ctx: CliContext, method: str, params: Json, on_event: OnEvent, *, detach: bool) -> Json:
    """Runs a turn, passes its events to `on_event`, and returns its result.

    Ctrl-C interrupts the turn if it has begun and `detach` is false.
    """
    running: Json | None = None
    ctx.disconnect_hint = _disconnect_hint(params)
    with ctx.connect(None) as client:
        try:
            with client.stream(method, params) as events:
                for event in events:
                    # A queued message has no turn yet; the running turn belongs to another message.
                    running = event if event.get("turn") is not None else running
                    on_event(event)
            return events.result
        except KeyboardInterrupt:
            if detach:
                print_note("no longer waiting; the turn continues")
            elif running is None:
                print_note("no longer waiting; the message stays queued, and its turn will run later")
            else:
                _interrupt_turn(ctx, running["session"])
            raise


def _disconnect_hint(params: Json) -> str:
    """Returns what happens to the turn if walrusd stops, and what a repeat of the command would do."""
    continues = "if the turn had begun, it continues when walrusd is back"
    if params.get("key"):
        return f"{continues}; a repeat with the same --key prints its answer"
    if "session" not in params:
        return f"{continues}: see `walrusctl session list`; a repeat starts another turn"
    attach = f"`walrusctl session attach {params['session']}`"
    return f"{continues}: see {attach}; a repeat without --key starts another turn"


def _interrupt_turn(ctx: CliContext, session: int) -> None:
    ctx.timeout = _INTERRUPT_TIMEOUT_S
    try:
        ctx.call("session.interrupt", {"session": session})
        print_note("interrupted")
    except (RequestFailed, TimedOut, Unreachable) as error:
        print_error(f"the turn could not be interrupted: {error}")


def _stream_turn(ctx: CliContext, method: str, params: Json, *, detach: bool) -> NoReturn:
    printer = EventPrinter(sys.stderr, whole_session=False)
    try:
        result = run_turn(ctx, method, params, printer, detach=detach)
    finally:
        printer.finish()
    _exit_by_result(result)


def _print_result(ctx: CliContext, result: Json) -> NoReturn:
    if ctx.json:
        print_json(result)
    elif result["text"]:
        print_answer(result["text"])
    _exit_by_result(result)


def _exit_by_result(result: Json) -> NoReturn:
    """Prints why a turn ended without an answer, and exits with the status of its stop reason."""
    stop_reason, error = result["stop_reason"], result.get("error")
    if error:
        print_error(f"{error['message']} ({error['kind']})", as_cli_options(error.get("hint", "")))
    elif stop_reason in _STOP_MESSAGES:
        print_error(*_STOP_MESSAGES[stop_reason])
    sys.stdout.flush()
    raise click.exceptions.Exit(wire.exit_code_for_turn(stop_reason, error and error["kind"]))


def _turn_params(text: str | None, options: Json, **more: object) -> Json:
    """Returns the params of a turn; options that were not given are left to walrusd's defaults."""
    set_options = {name: value for name, value in options.items() if value is not None}
    return {**more, **set_options, "content": read_text(text)}


def _ignore_event(event: Json) -> None:
    """Does nothing with an event: `run_turn` needs the events, but the command does not show them."""


def _print_event(event: Json) -> None:
    print_json(event)
    sys.stdout.flush()
