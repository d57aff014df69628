"""Tests of the component of the agents: the tools that it builds are those of the configuration's schema."""

from pathlib import Path

from tests.fakes.home import ECHO, Home
from tests.fakes.models import open_models_with_spawner
from walrus_config.load import load
from walrus_config.schema.tools import TOOL_SECTIONS
from walrusd.composition.agents import Agents
from walrusd.composition.component import ModelProviders
from walrusd.host.spawner import Spawner
from walrusd.observability.metrics import Metrics
from walrusd.observability.redaction import Redaction
from walrusd.runtime.runtime import Runtime
from walrusd.tools import TOOLS


def test_the_tools_are_those_that_the_configuration_has_tables_for() -> None:
    assert {spec.name for spec in TOOLS} == TOOL_SECTIONS.keys()


async def test_every_tool_is_offered_with_the_limits_of_its_table_once_they_are_committed(tmp_path: Path) -> None:
    tables = "".join(f"[tools.{name}]\ntimeout_s = 7\nmax_output_bytes = 300\n" for name in TOOL_SECTIONS)
    text = ECHO + tables.replace("[tools.bash]", '[tools.bash]\nsandbox = "none"')
    config = load(Home(tmp_path / "home", text).path, environ={})
    async with (
        Spawner(0o077) as spawner,
        open_models_with_spawner(config.providers, config.models) as models,
        Runtime(models) as runtime,
    ):
        agents = Agents(
            runtime=runtime,
            models=ModelProviders(models),
            metrics=Metrics("0"),
            spawner=spawner,
            redact=Redaction(),
        )
        prepared = await agents.prepare(config)
        assert runtime.agents() == ()
        prepared.commit()
        offered = {tool.name: (tool.timeout_s, tool.max_output_bytes) for tool in runtime.agent("walrus").tools}
    assert offered == dict.fromkeys(TOOL_SECTIONS, (7, 300))
