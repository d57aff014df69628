"""walrusctl send, stream, run and session resume: one message, one turn, and its answer."""

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import click

from walrus_protocol import wire
from walrus_protocol.client import Json, RequestFailed, TimedOut, Unreachable
from walrusctl.click_base import KEY, SECONDS, SESSION, SHORT_TEXT, common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.event_printer import EventPrinter, OnEvent
from walrusctl.hint_wording import as_cli_options
from walrusctl.message_input import read_text
from walrusctl.output import print_answer, print_error, print_json, print_note

Decorated = TypeVar("Decorated", bound=Callable[..., object])
WHEN_BUSY = ("queue", "steer", "interrupt", "reject")
_INTERRUPT_TIMEOUT_S = 10
"""How long Ctrl-C waits until the turn has been stopped and written down."""

_STOP_MESSAGES = {
    "max_iterations": (
        "the agent used up its rounds without a final answer",
        "send again to let it go on, or raise its max_iterations",
    ),
    "no_action": ("the model neither said nor asked for anything", "send again, or try another model"),
    "interrupted": ("the turn was interrupted", ""),
    "budget_exceeded": ("the turn went over its budget", "raise the budget, or ask for less"),
}


def turn_options(command: Decorated) -> Decorated:
    """What a message may carry, and what Ctrl-C means; TEXT is an argument of it too."""
    for parameter in (
        click.option("--detach", is_flag=True, help="On Ctrl-C only stop waiting; the turn goes on."),
        click.option(
            "--turn-timeout",
            "timeout_s",
            metavar="SECONDS",
            type=SECONDS,
            help="End the turn itself when it has taken this long, then exit 7.",
        ),
        click.option("--sender", type=SHORT_TEXT, metavar="NAME", help="Who speaks; the model is told."),
        click.argument("text", required=False),
    ):
        command = parameter(command)
    return command


def session_options(command: Decorated) -> Decorated:
    """What a message to a session may say beyond that: see `session.send` in protocol/README.md."""
    for parameter in (
        click.option("--when-busy", type=click.Choice(WHEN_BUSY), help="What to do while a turn runs. [queue]"),
        click.option(
            "--key", type=KEY, metavar="KEY", help="Send exactly once: a repeat gives the first turn's answer."
        ),
        turn_options,
        click.argument("session", type=SESSION),
    ):
        command = parameter(command)
    return command


@click.command()
@session_options
@common_options
@pass_cli_context
def send(ctx: CliContext, /, session: int, text: str | None, *, detach: bool, **options: object) -> None:
    """Send TEXT to SESSION and print the answer alone.

    TEXT is read from stdin where it is `-`, or left out and stdin is no terminal. Put `--` before a TEXT that begins
    with a dash. Ctrl-C interrupts the turn; while the message is still queued it only stops waiting, and the message
    stays queued.
    """
    params = _turn_params(text, options, session=session)
    _print_result(ctx, run_turn(ctx, "session.stream", params, _ignore_event, detach=detach))


@click.command()
@session_options
@common_options
@pass_cli_context
def stream(ctx: CliContext, /, session: int, text: str | None, *, detach: bool, **options: object) -> None:
    """Send TEXT to SESSION and print what the agent says as it comes.

    Tool calls are shown on stderr. With --json every event is a line, and the result is the last one. TEXT is read
    from stdin, and Ctrl-C obeyed, as `send` does it.
    """
    params = _turn_params(text, options, session=session)
    if ctx.json:
        result = run_turn(ctx, "session.stream", params, _print_event, detach=detach)
        print_json(result)
        _exit_by_result(result)
    _stream_turn(ctx, "session.stream", params, detach=detach)


@click.command()
@click.argument("agent")
@turn_options
@click.option("--title", type=SHORT_TEXT, metavar="TEXT", help="The session's title.")
@common_options
@pass_cli_context
def run(ctx: CliContext, /, agent: str, text: str | None, *, detach: bool, **options: object) -> None:
    """Give TEXT to AGENT in a session of its own, and print the answer.

    On a terminal the text is shown as it comes, as `stream` does; in a pipe the answer stands alone, as with `send`.
    """
    params = _turn_params(text, options, agent=agent, created_by="cli")
    if ctx.json or not sys.stdout.isatty():
        _print_result(ctx, run_turn(ctx, "agent.run", params, _ignore_event, detach=detach))
    _stream_turn(ctx, "agent.run", params, detach=detach)


@click.command()
@click.argument("session", type=SESSION)
@click.option("--detach", is_flag=True, help="On Ctrl-C only stop waiting; the turn goes on.")
@common_options
@pass_cli_context
def resume(ctx: CliContext, session: int, *, detach: bool) -> None:
    """Have the agent of SESSION go on where its last turn ended, and print the answer alone.

    For a turn that failed, was interrupted, or was given up because walrusd went down twice while it ran.
    """
    try:
        result = ctx.call("session.resume", {"session": session}, timeout_s=None)
    except KeyboardInterrupt:
        if detach:
            print_note("not waiting any longer; the turn goes on")
        else:
            _interrupt_turn(ctx, session)
        raise
    _print_result(ctx, result)


def run_turn(ctx: CliContext, method: str, params: Json, on_event: OnEvent, *, detach: bool) -> Json:
    """The result of a turn whose events `hear` is told. Ctrl-C interrupts it, where it is ours to interrupt."""
    running: Json | None = None
    ctx.disconnect_hint = _disconnect_hint(params)
    with ctx.connect(None) as client:
        try:
            with client.stream(method, params) as events:
                for event in events:
                    # A message that waits in the inbox has no turn yet, and the one that runs is somebody else's.
                    running = event if event.get("turn") is not None else running
                    on_event(event)
            return events.result
        except KeyboardInterrupt:
            if detach:
                print_note("not waiting any longer; the turn goes on")
            elif running is None:
                print_note("not waiting any longer; the turn had not begun, and will run when its time comes")
            else:
                _interrupt_turn(ctx, running["session"])
            raise


def _disconnect_hint(params: Json) -> str:
    """What becomes of a turn whose walrusd goes away, and what a repeat of it would do."""
    goes_on = "a turn that had begun goes on by itself when walrusd is back"
    if params.get("key"):
        return f"{goes_on}, and a repeat with the same --key gives its answer"
    if "session" not in params:
        return f"{goes_on}: `walrusctl session list` shows it, and a repeat would be another one"
    shown = f"`walrusctl session attach {params['session']}` shows it"
    return f"{goes_on}: {shown}, and a repeat would be another one (with a --key it would not)"


def _interrupt_turn(ctx: CliContext, session: int) -> None:
    ctx.timeout = _INTERRUPT_TIMEOUT_S
    try:
        ctx.call("session.interrupt", {"session": session})
        print_note("interrupted")
    except (RequestFailed, TimedOut, Unreachable) as error:
        print_error(f"the turn could not be interrupted: {error}")


def _stream_turn(ctx: CliContext, method: str, params: Json, *, detach: bool) -> NoReturn:
    shown = EventPrinter(sys.stderr, whole_session=False)
    try:
        result = run_turn(ctx, method, params, shown, detach=detach)
    finally:
        shown.finish()
    _exit_by_result(result)


def _print_result(ctx: CliContext, result: Json) -> NoReturn:
    if ctx.json:
        print_json(result)
    elif result["text"]:
        print_answer(result["text"])
    _exit_by_result(result)


def _exit_by_result(result: Json) -> NoReturn:
    """Say why a turn ended where it is not with an answer, and exit by it."""
    stop, error = result["stop_reason"], result.get("error")
    if error:
        print_error(f"{error['message']} ({error['kind']})", as_cli_options(error.get("hint", "")))
    elif stop in _STOP_MESSAGES:
        print_error(*_STOP_MESSAGES[stop])
    sys.stdout.flush()
    raise click.exceptions.Exit(wire.exit_code_for_turn(stop, error and error["kind"]))


def _turn_params(text: str | None, options: Json, **more: object) -> Json:
    """The params of a turn; an option that was not given is left to the daemon's default."""
    given = {name: value for name, value in options.items() if value is not None}
    return {**more, **given, "content": read_text(text)}


def _ignore_event(event: Json) -> None:
    """What happens on the way is not shown, but has to be known: see take_turn."""


def _print_event(event: Json) -> None:
    print_json(event)
    sys.stdout.flush()
