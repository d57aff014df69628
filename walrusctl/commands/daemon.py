"""The commands `walrusctl ping`, `status` and `metrics`: is walrusd running, and what is it doing?"""

import sys
import time

import click

from walrusctl.click_base import command
from walrusctl.context import CliContext
from walrusctl.formatting import format_bytes, format_fields
from walrusctl.output import print_answer, print_error, print_json, terminal_width


@command("walrusctl ping")
def ping(ctx: CliContext) -> None:
    """Check that walrusd responds, and how fast."""
    with ctx.connect() as client:
        start = time.perf_counter()
        pong = client.call("daemon.ping")
        elapsed = time.perf_counter() - start
    ctx.print_result(pong, f"walrusd answers ({elapsed * 1000:.1f} ms)")


@command("walrusctl status")
def status(ctx: CliContext) -> None:
    """Show the state of walrusd, and its warnings."""
    now = ctx.call("daemon.status")
    if ctx.json:
        print_json(now)
        return
    sessions = now["sessions"]
    providers = [f"{each['name']} ({each['kind']}): {', '.join(each['models']) or 'any'}" for each in now["providers"]]
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


@command("walrusctl metrics", "walrusctl metrics --prometheus")
@click.option("--prometheus", is_flag=True, help="Print in Prometheus format, including zeros.")
def metrics(ctx: CliContext, *, prometheus: bool) -> None:
    """Print counters and gauges of walrusd since its start.

    Metrics that are zero are left out, except with --json and --prometheus.
    """
    if ctx.json and prometheus:
        raise click.UsageError("--json and --prometheus exclude each other: choose one")
    answer = ctx.call("daemon.metrics", {"format": "prometheus" if prometheus else "json"})
    if ctx.json:
        print_json(answer)
    elif prometheus:
        print_answer(answer["text"])
    else:
        print_answer(format_fields((name, value) for name, value in answer["metrics"].items() if value))
