"""Tests of the keys of a heartbeat: how they are merged, and which values are refused with their line."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.config.conftest import LoadErrors, LoadToml
from walrus_config.schema import HeartbeatSettings

ECHO = '[providers.echo]\nkind = "echo"\nmodels = ["m"]\n'


def test_a_heartbeat_is_off_by_default(load_toml: LoadToml) -> None:
    assert load_toml(ECHO).agents["walrus"].heartbeat == HeartbeatSettings(interval=0.0)


def test_heartbeat_defaults_apply_key_by_key_and_an_agent_can_switch_it_off(home: Path, load_toml: LoadToml) -> None:
    (home / "agents/poet.md").write_text("---\nheartbeat: {interval: 0.5, quiet_hours: []}\n---\nRhyme.")
    config = load_toml(
        ECHO
        + """
[defaults.heartbeat]
interval = 60
probe = "ls ${HOME}"
quiet_hours = ["23:00", "07:00"]
jitter_s = 20
[agents.walrus.heartbeat]
interval = 0
[agents.clerk.heartbeat]
session = "same"
prompt = "Look."
"""
    )
    defaults = HeartbeatSettings(interval=60.0, probe="ls ${HOME}", quiet_hours=("23:00", "07:00"), jitter_s=20.0)
    assert {name: agent.heartbeat for name, agent in config.agents.items()} == {
        "walrus": replace(defaults, interval=0.0),
        "poet": replace(defaults, interval=0.5, quiet_hours=()),
        "clerk": replace(defaults, session="same", prompt="Look."),
    }
    assert not [warning for warning in config.warnings if "${" in warning], "a probe is read by a shell"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[agents.x.heartbeat]\nevery = 5",
            "2: agents.x.heartbeat.every: unknown key; known here: interval, jitter_s, ",
        ),
        ("[agents.x.heartbeat]\ninterval = '1h'", "2: agents.x.heartbeat.interval: expected a number, not text"),
        ("[agents.x.heartbeat]\ninterval = -1", "2: agents.x.heartbeat.interval: must be at least 0, not -1"),
        (
            "[agents.x.heartbeat]\ninterval = 0.01",
            (
                "2: agents.x.heartbeat.interval: 0.01 minutes is less than 5 seconds; "
                "set at least 0.083, or 0 to switch it off"
            ),
        ),
        ("[agents.x.heartbeat]\nsession = 'old'", '2: agents.x.heartbeat.session: "old" is not one of new, same'),
        (
            "[agents.x.heartbeat]\nquiet_hours = ['23:00', '7:00']",
            "2: agents.x.heartbeat.quiet_hours: expected two times of day as HH:MM, start and end; for example ",
        ),
        (
            "[agents.x.heartbeat]\nquiet_hours = ['23:00', '24:00']",
            "2: agents.x.heartbeat.quiet_hours: expected two times of day as HH:MM, start and end; for example ",
        ),
        (
            "[defaults.heartbeat]\n\nquiet_hours = ['23:00']",
            "3: defaults.heartbeat.quiet_hours: expected two times of day as HH:MM, start and end; for example ",
        ),
        (
            "[defaults.heartbeat]\nquiet_hours = ['07:00', '07:00']",
            (
                "2: defaults.heartbeat.quiet_hours: both times are the same, "
                "which could mean no hours or the whole day; for example "
            ),
        ),
        (
            "[agents.walrus.heartbeat]\ninterval = 1\njitter_s = 60",
            "3: agents.walrus.heartbeat.jitter_s: 60 s is not shorter than the interval of agent walrus; a tick ",
        ),
        (
            "[defaults]\nheartbeat.jitter_s = 60\n[agents.walrus.heartbeat]\ninterval = 1",
            "3: agents.walrus.heartbeat.jitter_s: 60 s is not shorter than the interval of agent walrus; a tick ",
        ),
        (
            "[defaults]\nheartbeat = { interval = 1, jitter_s = 61 }",
            "2: defaults.heartbeat.jitter_s: 61 s is not shorter than the interval of agent walrus; a tick ",
        ),
    ],
)
def test_an_invalid_heartbeat_is_refused_with_its_line(load_errors: LoadErrors, text: str, message: str) -> None:
    (problem,) = load_errors(text)
    assert problem.startswith(f"walrus.toml:{message}")
