"""walrusctl ping, status, metrics: is walrusd there, how is it, and what has it done?"""

import sys
import time

import click

from walrusctl.click_base import common_options
from walrusctl.context import CliContext, pass_cli_context
from walrusctl.formatting import format_bytes, format_fields
from walrusctl.output import print_answer, print_error, print_json, terminal_width


@click.command()
@common_options
@pass_cli_context
def ping(ctx: CliContext) -> None:
    """Ask walrusd for a sign of life."""
    with ctx.connect() as client:
        began = time.perf_counter()
        pong = client.call("daemon.ping")
        took = time.perf_counter() - began
    if ctx.json:
        print_json(pong)
    else:
        print_answer(f"walrusd answers ({took * 1000:.1f} ms)")


@click.command()
@common_options
@pass_cli_context
def status(ctx: CliContext) -> None:
    """Show what walrusd is doing, and what it needs from you."""
    now = ctx.call("daemon.status")
    if ctx.json:
        print_json(now)
        return
    sessions = now["sessions"]
    providers = [f"{one['name']} ({one['kind']}): {', '.join(one['models']) or 'any'}" for one in now["providers"]]
    print_answer(
        format_fields(
            [
                ("walrusd", f"{now['version']}, pid {now['pid']}, up {now['uptime_s']:.0f} s"),
                ("home", now["home"]),
                ("sessions", f"{sessions['open']} open, {sessions['live']} in memory, {sessions['running']} running"),
                ("agents", ", ".join(now["agents"])),
                ("schedule", ", ".join(now["schedule"])),
                *(("provider", provider) for provider in providers),
                ("memory", format_bytes(now["rss_bytes"])),
                (
                    "holds",
                    f"files {now['fds']}, tasks {now['tasks']}, threads {now['threads']}, children {now['children']}",
                ),
                ("connections", now["connections"]),
            ],
            terminal_width(sys.stdout),
        )
    )
    for warning in now["warnings"]:
        print_error(warning)


@click.command()
@click.option("--prometheus", is_flag=True, help="Print them as Prometheus reads them, zeros too.")
@common_options
@pass_cli_context
def metrics(ctx: CliContext, *, prometheus: bool) -> None:
    """Count what walrusd has done since its start, and what it holds now."""
    if ctx.json and prometheus:
        raise click.UsageError("--json and --prometheus are two forms: ask for one of them")
    found = ctx.call("daemon.metrics", {"format": "prometheus" if prometheus else "json"})
    if ctx.json:
        print_json(found)
    elif prometheus:
        print_answer(found["text"])
    else:
        print_answer(format_fields((name, value) for name, value in found["metrics"].items() if value))
