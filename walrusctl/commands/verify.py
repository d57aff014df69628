"""walrusctl verify: is the log as walrusd wrote it?"""

import sqlite3
from typing import TYPE_CHECKING, NoReturn

import click

from walrus_config import paths
from walrus_protocol import hash_chain, wire
from walrus_protocol.client import Json
from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.output import print_answer, print_error, print_json, print_note

if TYPE_CHECKING:
    from walrusctl.verify_chain import ChainVerdict

_TAMPERING_HINT = "keep the database as it is; a backup, or a head that was logged before, tells since when it is so"


class ChainHeadParam(click.ParamType[hash_chain.ChainHead]):
    name = "head"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> hash_chain.ChainHead:
        try:
            return hash_chain.parse_head(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option(
    "--since",
    metavar="HEAD",
    type=ChainHeadParam(),
    help="A head that was printed or logged earlier, OFFSET:HEX: it has to be in the chain still.",
)
@common_options
@pass_cli_context
def verify(ctx: CliContext, *, since: hash_chain.ChainHead | None) -> None:
    """Prove that no event was changed, taken out or put in, and print the head of the chain.

    It reads the database itself, while walrusd runs or not. walrusd keeps a chain where walrus.toml says `[storage]
    chain = true`. Note the head elsewhere: only --since shows a log that was cut off, or made anew as a whole.

    Exit 0: it is whole. 1: it was tampered with, and the first place is named, or it cannot be read. 2: there is no
    chain.
    """
    from walrusctl.verify_chain import UnknownDatabase
    from walrusctl.verify_chain import verify as proved

    path = paths.home_paths(ctx.home_path()).database
    try:
        verdict = proved(path, since)
    except FileNotFoundError:
        _exit_with_error(ctx, wire.EXIT_NOT_FOUND, f"there is no {path}", "the first start of walrusd makes it")
    except UnknownDatabase as refused:
        _exit_with_error(ctx, wire.EXIT_INTERNAL, *refused.args)
    except (sqlite3.Error, OSError) as error:
        hint = "`walrusctl doctor` looks at what is wrong with it"
        _exit_with_error(ctx, wire.EXIT_INTERNAL, f"{path} cannot be read: {error}", hint)
    if ctx.json:
        print_json(_as_json(verdict))
    else:
        _print_verdict(verdict)
    if verdict.tampering:
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)
    if not verdict.segments:
        raise click.exceptions.Exit(wire.EXIT_USAGE)


def _exit_with_error(ctx: CliContext, status: int, message: str, hint: str) -> NoReturn:
    print_error(message, hint)
    if ctx.json:
        print_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(status)


def _as_json(verdict: "ChainVerdict") -> Json:
    whole = not verdict.tampering if verdict.segments or verdict.tampering else None
    return {
        "whole": whole,
        "head": str(verdict.head) if verdict.head and not verdict.tampering else None,
        "events": verdict.events,
        "thrown_away": verdict.deleted_events,
        "stretches": [stretch._asdict() for stretch in verdict.segments],
        "tampered": verdict.tampering._asdict() if verdict.tampering else None,
    }


def _print_verdict(verdict: "ChainVerdict") -> None:
    if found := verdict.tampering:
        named = {"offset": found.offset, "session": found.session, "seq": found.seq}
        place = ", ".join(f"{name} {number}" for name, number in named.items() if number is not None)
        print_error(f"the log was tampered with, first at {place}: {found.what}", _TAMPERING_HINT)
        return
    if not verdict.segments:
        print_error("there is no chain", "`[storage] chain = true` in walrus.toml begins one at the next start")
        return
    before = 0
    for stretch in verdict.segments:
        if stretch.first > before + 1:
            print_note(f"offsets {before + 1} to {stretch.first - 1} are of no chain: it was switched off")
        before = stretch.last
    if not verdict.segments[-1].goes_on:
        print_note(f"what was written after offset {before} is of no chain: it was switched off")
    gone = f", {verdict.deleted_events:,} of them thrown away since" if verdict.deleted_events else ""
    are = "event is as it was" if verdict.events == 1 else "events are as they were"
    print_note(f"{verdict.events:,} {are} written{gone}")
    print_answer(str(verdict.head))
