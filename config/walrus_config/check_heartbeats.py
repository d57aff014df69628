"""Checks heartbeat settings for what their types cannot express: short intervals and invalid hours."""

import re
from collections.abc import Mapping

from walrus_config.diagnostics import Diagnostics
from walrus_config.schema import AgentSettings, BaseAgentSettings, HeartbeatSettings, RawConfig
from walrus_config.toml_positions import KeyPath

MIN_INTERVAL_S = 5.0
"""Minimum seconds between two ticks: each tick is a turn, which takes a model about that long."""
TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def check_heartbeats(
    raw_config: RawConfig,
    raw_agents: Mapping[str, object],
    agents: Mapping[str, AgentSettings],
    diagnostics: Diagnostics,
) -> None:
    """Adds an error to `diagnostics` for each invalid heartbeat setting.

    `raw_agents` are the agents' tables before decoding; they show where a key is written.
    """
    tiers: dict[KeyPath, BaseAgentSettings] = {("defaults",): raw_config.defaults}
    tiers |= {("agents", name): table for name, table in raw_config.agents.items()}
    for at, table in tiers.items():
        _check_heartbeat((*at, "heartbeat"), table.heartbeat, diagnostics)
    for name, agent in agents.items():
        own = raw_agents.get(name)
        heartbeat = own.get("heartbeat") if isinstance(own, dict) else None
        is_own = isinstance(heartbeat, dict) and bool(heartbeat.keys() & {"jitter_s", "interval"})
        location: KeyPath = ("agents", name, "heartbeat") if is_own else ("defaults", "heartbeat")
        if 0 < agent.heartbeat.interval * 60 <= agent.heartbeat.jitter_s:
            message = f"{agent.heartbeat.jitter_s:g} s is not shorter than the interval of agent {name}"
            diagnostics.add_error((*location, "jitter_s"), message, "a tick could then be due after the next one")


def _check_heartbeat(key_path: KeyPath, heartbeat: HeartbeatSettings, diagnostics: Diagnostics) -> None:
    if 0 < heartbeat.interval * 60 < MIN_INTERVAL_S:
        diagnostics.add_error(
            (*key_path, "interval"),
            f"{heartbeat.interval:g} minutes is less than {MIN_INTERVAL_S:g} seconds",
            f"set at least {MIN_INTERVAL_S / 60:.3f}, or 0 to switch it off",
        )
    hours = heartbeat.quiet_hours
    if not hours:
        return
    location, hint = (*key_path, "quiet_hours"), 'for example ["23:00", "07:00"], or [] for none'
    if len(hours) != 2 or not all(TIME_OF_DAY.fullmatch(hour) for hour in hours):
        diagnostics.add_error(location, "expected two times of day as HH:MM, start and end", hint)
    elif hours[0] == hours[1]:
        diagnostics.add_error(location, "both times are the same, which could mean no hours or the whole day", hint)
