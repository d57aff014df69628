"""The tables [defaults.heartbeat] and [agents.NAME.heartbeat]: the clock starts turns of an agent."""

import re
from typing import Annotated, Literal

from msgspec import Meta

from walrus_config.diagnostics import Diagnostics, Location
from walrus_config.schema.section import NonNegative, Section

MIN_INTERVAL_S = 5.0
"""Minimum seconds between two ticks: each tick is a turn, which takes a model about that long."""
_MINUTES_PER_YEAR = 525_600
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


class HeartbeatSettings(Section, frozen=True, kw_only=True):
    interval: Annotated[float, Meta(ge=0, le=_MINUTES_PER_YEAR)] = 0.0
    """Minutes between two ticks; 0 means off."""
    prompt: str = ""
    """The message to the agent; empty means the default prompt of walrusd."""
    session: Literal["new", "same"] = "new"
    probe: str = ""
    """A shell command; the model is called only if its output differs from the last time."""
    quiet_hours: tuple[str, ...] = ()
    """Start and end, as HH:MM in local time; empty means no quiet hours."""
    jitter_s: NonNegative = 0.0
    """Maximum seconds by which a tick is delayed; the delay differs from tick to tick."""

    def check(self, at: Location) -> None:
        if 0 < self.interval * 60 < MIN_INTERVAL_S:
            at.key("interval").add_error(
                f"{self.interval:g} minutes is less than {MIN_INTERVAL_S:g} seconds",
                f"set at least {MIN_INTERVAL_S / 60:.3f}, or 0 to switch it off",
            )
        hours = self.quiet_hours
        if not hours:
            return
        location, hint = at.key("quiet_hours"), 'for example ["23:00", "07:00"], or [] for none'
        if len(hours) != 2 or not all(_TIME_OF_DAY.fullmatch(hour) for hour in hours):
            location.add_error("expected two times of day as HH:MM, start and end", hint)
        elif hours[0] == hours[1]:
            location.add_error("both times are the same, which could mean no hours or the whole day", hint)


def check_jitter(agent: str, heartbeat: HeartbeatSettings, diagnostics: Diagnostics) -> None:
    """Checks the heartbeat of a complete agent; the error is at the table that sets one of the two keys."""
    if 0 < heartbeat.interval * 60 <= heartbeat.jitter_s:
        own = ("agents", agent, "heartbeat")
        is_own = any(diagnostics.has_key((*own, key)) for key in ("jitter_s", "interval"))
        location = own if is_own else ("defaults", "heartbeat")
        message = f"{heartbeat.jitter_s:g} s is not shorter than the interval of agent {agent}"
        diagnostics.add_error((*location, "jitter_s"), message, "a tick could then be due after the next one")
