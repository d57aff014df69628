"""Tests of ConfigApplier: the tools that it builds are those of the configuration's schema."""

from pathlib import Path

from tests.fakes.home import ECHO, Home
from walrus_config.load import load
from walrus_config.schema.tools import TOOL_SECTIONS
from walrusd.composition.apply_config import ConfigApplier
from walrusd.composition.reload import build_active_config
from walrusd.host.spawner import Spawner
from walrusd.observability.metrics import Metrics
from walrusd.observability.redaction import Redaction
from walrusd.providers.registry import open_models
from walrusd.runtime.runtime import Runtime


async def test_every_tool_with_a_section_is_built_with_the_limits_of_its_section_and_no_other(tmp_path: Path) -> None:
    tables = "".join(f"[tools.{name}]\ntimeout_s = 7\nmax_output_bytes = 300\n" for name in TOOL_SECTIONS)
    text = ECHO + tables.replace("[tools.bash]", '[tools.bash]\nsandbox = "none"')
    config = load(Home(tmp_path / "home", text).path, environ={})
    async with (
        Spawner(0o077) as spawner,
        open_models(config.providers, config.models, spawner=spawner) as models,
        Runtime(models) as runtime,
    ):
        applier = ConfigApplier(runtime=runtime, metrics=Metrics("0"), spawner=spawner, redact=Redaction())
        applier.apply(await build_active_config(config, models))
        offered = {tool.name: (tool.timeout_s, tool.max_output_bytes) for tool in runtime.agent("walrus").tools}
    assert offered == dict.fromkeys(TOOL_SECTIONS, (7, 300))
