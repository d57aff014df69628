"""A harness for the read tool: a workspace, a walrus home, and a folder outside of both."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.dispatch.pipeline_harness import PipelineHarness
from walrus_protocol.events import ToolResult
from walrusd.tools.files import ReadTool


class ReadHarness:
    """Calls `read` through the pipeline, with a workspace, a home and a folder outside."""

    def __init__(self, base: Path) -> None:
        self.workspace, self.home, self.outside = (base / name for name in ("work", "walrus", "outside"))
        for folder in (self.workspace, self.home, self.outside):
            folder.mkdir()
        (self.home / "walrus.toml").write_text("the key")
        (self.outside / "secret").write_text("the secret")

    async def read(
        self, path: str | Path, *, workspace: Path | None = None, cap: int = 64 * 1024, **arguments: int
    ) -> ToolResult:
        harness = PipelineHarness(ReadTool(str(self.home), cap), workspace=str(workspace or self.workspace))
        return await harness.call("read", {"path": str(path), **arguments})

    async def error_text(self, path: str | Path, *, workspace: Path | None = None, **arguments: int) -> str:
        result = await self.read(path, workspace=workspace, **arguments)
        assert result.outcome == "error"
        return result.output


@contextmanager
def world_readable_harness() -> Iterator[ReadHarness]:
    """Yields a harness in a folder that other users can enter; the folder is removed afterwards."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        yield ReadHarness(Path(os.path.realpath(base)))
