"""The command `walrusctl verify`: checks the hash chain of the event log."""

from typing import TYPE_CHECKING

import click

from walrus_config import paths
from walrus_protocol import wire
from walrus_protocol.client import Json
from walrus_protocol.database.hash_chain import ChainHead, parse_head
from walrusctl.click_base import command
from walrusctl.context import CliContext, CommandFailed
from walrusctl.output import print_answer, print_error, print_json, print_note

if TYPE_CHECKING:
    from walrus_protocol.database.verify_chain import ChainVerdict

_TAMPERING_HINT = "keep the database unchanged; compare with a backup or an earlier head to find out when it happened"


class ChainHeadParam(click.ParamType[ChainHead]):
    name = "head"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> ChainHead:
        try:
            return parse_head(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@command("walrusctl verify", "walrusctl verify --since 1200:9f86d0...")
@click.option(
    "--since",
    metavar="HEAD",
    type=ChainHeadParam(),
    help="An earlier head, OFFSET:HEX, that must still be in the chain.",
)
def verify(ctx: CliContext, *, since: ChainHead | None) -> None:
    """Check that no event was changed, removed or inserted.

    It prints the head of the hash chain. It reads the database itself, and walrusd need not run. walrusd writes a chain
    if walrus.toml has `[storage] chain = true`. Store the head elsewhere: only --since detects that a log was truncated
    or replaced as a whole.

    Exit 0: the log is intact. 1: it was tampered with (the first place is printed), or it cannot be read. 2: there is
    no chain.
    """
    from walrus_protocol.database.reader import DatabaseUnreadable
    from walrus_protocol.database.verify_chain import UnknownDatabase
    from walrus_protocol.database.verify_chain import verify as verify_chain

    path = paths.home_paths(ctx.home_path()).database
    try:
        verdict = verify_chain(path, since)
    except FileNotFoundError:
        hint = "the first start of walrusd creates it"
        raise CommandFailed(f"{path} does not exist", hint, wire.EXIT_NOT_FOUND) from None
    except UnknownDatabase as error:
        raise CommandFailed(*error.args) from None
    except (DatabaseUnreadable, OSError) as error:
        hint = "`walrusctl doctor` shows what is wrong with it"
        raise CommandFailed(f"{path} cannot be read: {error}", hint) from None
    if ctx.json:
        print_json(_as_json(verdict))
    else:
        _print_verdict(verdict)
    if verdict.tampering:
        raise click.exceptions.Exit(wire.EXIT_INTERNAL)
    if not verdict.segments:
        raise click.exceptions.Exit(wire.EXIT_USAGE)


def _as_json(verdict: "ChainVerdict") -> Json:
    whole = not verdict.tampering if verdict.segments or verdict.tampering else None
    return {
        "whole": whole,
        "head": str(verdict.head) if verdict.head and not verdict.tampering else None,
        "events": verdict.events,
        "thrown_away": verdict.deleted_events,
        "stretches": [segment._asdict() for segment in verdict.segments],
        "tampered": verdict.tampering._asdict() if verdict.tampering else None,
    }


def _print_verdict(verdict: "ChainVerdict") -> None:
    if found := verdict.tampering:
        position = {"offset": found.offset, "session": found.session, "seq": found.seq}
        place = ", ".join(f"{name} {number}" for name, number in position.items() if number is not None)
        print_error(f"the log was tampered with, first at {place}: {found.what}", _TAMPERING_HINT)
        return
    if not verdict.segments:
        print_error("there is no chain", "set `[storage] chain = true` in walrus.toml and restart walrusd to begin one")
        return
    before = 0
    for segment in verdict.segments:
        if segment.first > before + 1:
            print_note(f"offsets {before + 1} to {segment.first - 1} are not in the chain: it was switched off")
        before = segment.last
    if not verdict.segments[-1].goes_on:
        print_note(f"events after offset {before} are not in the chain: it was switched off")
    deleted = f", {verdict.deleted_events:,} of them deleted since" if verdict.deleted_events else ""
    are = "event is as it was" if verdict.events == 1 else "events are as they were"
    print_note(f"{verdict.events:,} {are} written{deleted}")
    print_answer(str(verdict.head))
