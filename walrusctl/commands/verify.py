"""walrusctl verify: is the log as walrusd wrote it?"""

import sqlite3
from typing import TYPE_CHECKING, NoReturn

import click

from walrus_config import paths
from walrus_protocol import chain, wire
from walrus_protocol.client import Json
from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, note, say, say_json

if TYPE_CHECKING:
    from walrusctl.chain import Verdict

_KEEP = "keep the database as it is; a backup, or a head that was logged before, tells since when it is so"


class HeadOfChain(click.ParamType[chain.Head]):
    name = "head"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> chain.Head:
        try:
            return chain.head(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option(
    "--since",
    metavar="HEAD",
    type=HeadOfChain(),
    help="A head that was printed or logged earlier, OFFSET:HEX: it has to be in the chain still.",
)
@common_options
@pass_invocation
def verify(asked: Invocation, *, since: chain.Head | None) -> None:
    """Prove that no event was changed, taken out or put in, and print the head of the chain.

    It reads the database itself, while walrusd runs or not. walrusd keeps a chain where walrus.toml says `[storage]
    chain = true`. Note the head elsewhere: only --since shows a log that was cut off, or made anew as a whole.

    Exit 0: it is whole. 1: it was tampered with, and the first place is named, or it cannot be read. 2: there is no
    chain.
    """
    from walrusctl.chain import Foreign
    from walrusctl.chain import verify as proved

    path = paths.paths(asked.home_path()).database
    try:
        verdict = proved(path, since)
    except FileNotFoundError:
        _cannot(asked, wire.EXIT_NOT_FOUND, f"there is no {path}", "the first start of walrusd makes it")
    except Foreign as refused:
        _cannot(asked, wire.EXIT_INTERNAL, *refused.args)
    except (sqlite3.Error, OSError) as error:
        hint = "`walrusctl doctor` looks at what is wrong with it"
        _cannot(asked, wire.EXIT_INTERNAL, f"{path} cannot be read: {error}", hint)
    if asked.json:
        say_json(_as_json(verdict))
    else:
        _say(verdict)
    if verdict.tampered:
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)
    if not verdict.stretches:
        raise click.exceptions.Exit(wire.EXIT_USAGE)


def _cannot(asked: Invocation, status: int, message: str, hint: str) -> NoReturn:
    complain(message, hint)
    if asked.json:
        say_json({"error": {"message": message, "hint": hint}})
    raise click.exceptions.Exit(status)


def _as_json(verdict: "Verdict") -> Json:
    whole = not verdict.tampered if verdict.stretches or verdict.tampered else None
    return {
        "whole": whole,
        "head": str(verdict.head) if verdict.head and not verdict.tampered else None,
        "events": verdict.events,
        "thrown_away": verdict.thrown_away,
        "stretches": [stretch._asdict() for stretch in verdict.stretches],
        "tampered": verdict.tampered._asdict() if verdict.tampered else None,
    }


def _say(verdict: "Verdict") -> None:
    if found := verdict.tampered:
        named = {"offset": found.offset, "session": found.session, "seq": found.seq}
        place = ", ".join(f"{name} {number}" for name, number in named.items() if number is not None)
        complain(f"the log was tampered with, first at {place}: {found.what}", _KEEP)
        return
    if not verdict.stretches:
        complain("there is no chain", "`[storage] chain = true` in walrus.toml begins one at the next start")
        return
    before = 0
    for stretch in verdict.stretches:
        if stretch.first > before + 1:
            note(f"offsets {before + 1} to {stretch.first - 1} are of no chain: it was switched off")
        before = stretch.last
    if not verdict.stretches[-1].goes_on:
        note(f"what was written after offset {before} is of no chain: it was switched off")
    gone = f", {verdict.thrown_away:,} of them thrown away since" if verdict.thrown_away else ""
    are = "event is as it was" if verdict.events == 1 else "events are as they were"
    note(f"{verdict.events:,} {are} written{gone}")
    say(str(verdict.head))
