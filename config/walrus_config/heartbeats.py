"""What a heartbeat may not say, beyond the types of its keys: an interval too short, hours that are none."""

import re
from collections.abc import Mapping

from walrus_config.lines import KeyPath
from walrus_config.notes import Notes
from walrus_config.schema import Agent, AgentKeys, Heartbeat, Tables

LEAST_S = 5.0
"""Seconds between two ticks: each is a turn, which a model needs about that long for."""
TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def check_heartbeats(tables: Tables, written: Mapping[str, object], agents: Mapping[str, Agent], notes: Notes) -> None:
    """`written` is the agents' part of what `tables` was made from: it tells where a key stands."""
    tiers: dict[KeyPath, AgentKeys] = {("defaults",): tables.defaults}
    tiers |= {("agents", name): table for name, table in tables.agents.items()}
    for at, table in tiers.items():
        _check_alone((*at, "heartbeat"), table.heartbeat, notes)
    for name, agent in agents.items():
        own = written.get(name)
        beat = own.get("heartbeat") if isinstance(own, dict) else None
        here = isinstance(beat, dict) and bool(beat.keys() & {"jitter_s", "interval"})
        place: KeyPath = ("agents", name, "heartbeat") if here else ("defaults", "heartbeat")
        if 0 < agent.heartbeat.interval * 60 <= agent.heartbeat.jitter_s:
            message = f"of agent {name}, {agent.heartbeat.jitter_s:g} s, must be shorter than its interval"
            notes.refuse((*place, "jitter_s"), message, "a tick would be due after the one that follows it")


def _check_alone(at: KeyPath, beat: Heartbeat, notes: Notes) -> None:
    if 0 < beat.interval * 60 < LEAST_S:
        notes.refuse(
            (*at, "interval"),
            f"{beat.interval:g} minutes is less than {LEAST_S:g} seconds",
            f"at least {LEAST_S / 60:.3f}, or 0 for off",
        )
    hours = beat.quiet_hours
    if not hours:
        return
    place, hint = (*at, "quiet_hours"), 'such as ["23:00", "07:00"], or [] for none'
    if len(hours) != 2 or not all(TIME_OF_DAY.fullmatch(hour) for hour in hours):
        notes.refuse(place, "expected two times of day as HH:MM, from and until", hint)
    elif hours[0] == hours[1]:
        notes.refuse(place, "begin and end at the same time: none, or all day", hint)
