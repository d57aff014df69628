"""walrusctl ping, status, metrics: is walrusd there, how is it, and what has it done?"""

import sys
import time

import click

from walrusctl.groups import common_options
from walrusctl.invocation import Invocation, pass_invocation
from walrusctl.output import complain, say, say_json, width
from walrusctl.render import fields, size


@click.command()
@common_options
@pass_invocation
def ping(asked: Invocation) -> None:
    """Ask walrusd for a sign of life."""
    with asked.client() as client:
        began = time.perf_counter()
        pong = client.call("daemon.ping")
        took = time.perf_counter() - began
    if asked.json:
        say_json(pong)
    else:
        say(f"walrusd answers ({took * 1000:.1f} ms)")


@click.command()
@common_options
@pass_invocation
def status(asked: Invocation) -> None:
    """Show what walrusd is doing, and what it needs from you."""
    now = asked.call("daemon.status")
    if asked.json:
        say_json(now)
        return
    sessions = now["sessions"]
    providers = [f"{one['name']} ({one['kind']}): {', '.join(one['models']) or 'any'}" for one in now["providers"]]
    say(
        fields(
            [
                ("walrusd", f"{now['version']}, pid {now['pid']}, up {now['uptime_s']:.0f} s"),
                ("home", now["home"]),
                ("sessions", f"{sessions['open']} open, {sessions['live']} in memory, {sessions['running']} running"),
                ("agents", ", ".join(now["agents"])),
                ("schedule", ", ".join(now["schedule"])),
                *(("provider", provider) for provider in providers),
                ("memory", size(now["rss_bytes"])),
                (
                    "holds",
                    f"files {now['fds']}, tasks {now['tasks']}, threads {now['threads']}, children {now['children']}",
                ),
                ("connections", now["connections"]),
            ],
            width(sys.stdout),
        )
    )
    for warning in now["warnings"]:
        complain(warning)


@click.command()
@click.option("--prometheus", is_flag=True, help="Print them as Prometheus reads them, zeros too.")
@common_options
@pass_invocation
def metrics(asked: Invocation, *, prometheus: bool) -> None:
    """Count what walrusd has done since its start, and what it holds now."""
    if asked.json and prometheus:
        raise click.UsageError("--json and --prometheus are two forms: ask for one of them")
    found = asked.call("daemon.metrics", {"format": "prometheus" if prometheus else "json"})
    if asked.json:
        say_json(found)
    elif prometheus:
        say(found["text"])
    else:
        say(fields((name, value) for name, value in found["metrics"].items() if value))
