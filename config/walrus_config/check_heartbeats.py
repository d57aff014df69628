"""What a heartbeat may not say, beyond the types of its keys: an interval too short, hours that are none."""

import re
from collections.abc import Mapping

from walrus_config.diagnostics import Diagnostics
from walrus_config.schema import AgentSettings, BaseAgentSettings, HeartbeatSettings, RawConfig
from walrus_config.toml_positions import KeyPath

MIN_INTERVAL_S = 5.0
"""Seconds between two ticks: each is a turn, which a model needs about that long for."""
TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def check_heartbeats(
    raw_config: RawConfig,
    raw_agents: Mapping[str, object],
    agents: Mapping[str, AgentSettings],
    diagnostics: Diagnostics,
) -> None:
    """`written` is the agents' part of what `tables` was made from: it tells where a key stands."""
    tiers: dict[KeyPath, BaseAgentSettings] = {("defaults",): raw_config.defaults}
    tiers |= {("agents", name): table for name, table in raw_config.agents.items()}
    for at, table in tiers.items():
        _check_heartbeat((*at, "heartbeat"), table.heartbeat, diagnostics)
    for name, agent in agents.items():
        own = raw_agents.get(name)
        beat = own.get("heartbeat") if isinstance(own, dict) else None
        here = isinstance(beat, dict) and bool(beat.keys() & {"jitter_s", "interval"})
        place: KeyPath = ("agents", name, "heartbeat") if here else ("defaults", "heartbeat")
        if 0 < agent.heartbeat.interval * 60 <= agent.heartbeat.jitter_s:
            message = f"of agent {name}, {agent.heartbeat.jitter_s:g} s, must be shorter than its interval"
            diagnostics.add_error((*place, "jitter_s"), message, "a tick would be due after the one that follows it")


def _check_heartbeat(key_path: KeyPath, heartbeat: HeartbeatSettings, diagnostics: Diagnostics) -> None:
    if 0 < heartbeat.interval * 60 < MIN_INTERVAL_S:
        diagnostics.add_error(
            (*key_path, "interval"),
            f"{heartbeat.interval:g} minutes is less than {MIN_INTERVAL_S:g} seconds",
            f"at least {MIN_INTERVAL_S / 60:.3f}, or 0 for off",
        )
    hours = heartbeat.quiet_hours
    if not hours:
        return
    place, hint = (*key_path, "quiet_hours"), 'such as ["23:00", "07:00"], or [] for none'
    if len(hours) != 2 or not all(TIME_OF_DAY.fullmatch(hour) for hour in hours):
        diagnostics.add_error(place, "expected two times of day as HH:MM, from and until", hint)
    elif hours[0] == hours[1]:
        diagnostics.add_error(place, "begin and end at the same time: none, or all day", hint)
