"""Tests of --help: sections, short summaries, an example for each command, and no ranges of numbers."""

import re
from collections.abc import Iterator

import click
import pytest

from tests.fakes.walrusctl_runner import WalrusctlRunner
from walrusctl.cli import SECTIONS, cli

MAX_SUMMARY = 55
"""Characters of a command's summary, so that a list of commands fits a terminal of 80 columns."""


def all_commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, *path, name)


COMMANDS = dict(all_commands(cli))


def test_the_root_help_lists_each_command_in_one_section(terminal: WalrusctlRunner) -> None:
    shown = terminal.run("--help").stdout
    listed: dict[str, list[str]] = {}
    for title in SECTIONS:
        section = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        listed[title] = [line.split()[0] for line in section.splitlines()]
    assert listed == {title: list(names) for title, names in SECTIONS.items()}
    assert [name for names in listed.values() for name in names] == cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_has_a_short_summary_and_an_example_and_shows_no_ranges(
    terminal: WalrusctlRunner, path: tuple[str, ...]
) -> None:
    summary = (COMMANDS[path].help or "").partition("\n")[0]
    assert (0 < len(summary) <= MAX_SUMMARY, summary[-1:]) == (True, "."), summary
    shown = terminal.run(*path, "--help").stdout
    assert f"  {summary}\n" in shown
    assert re.search(r"^  Examples?:\n(    .*\n)*    .*walrusctl .*$", shown, re.MULTILINE)
    assert not re.search(r"[<>]=?x|x[<>]|RANGE", shown)
    assert max(map(len, shown.splitlines())) <= 80
