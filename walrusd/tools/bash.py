"""The `bash` tool: runs a shell command in the agent's workspace; the process ends with the call."""

from msgspec import Struct, convert

from walrus_config.schema import BashToolSettings, ToolSettings
from walrus_protocol.content import ToolSchema
from walrusd.ports import Command, ToolFailed, ToolRun
from walrusd.tools.spec import ToolDeps, ToolSpec

TIMEOUT_S = 120.0
"""Seconds that a command may take by default: long enough for a build or a test run."""


class BashArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `bash`, as its schema defines them."""

    command: str
    timeout_s: float | None = None


class BashTool:
    """The bash tool.

    There is no sandbox: a command can do what the user can, so the tool is available only if walrus.toml permits it.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.schema = ToolSchema(
            name="bash",
            description="Run a command with `bash -c` in your workspace, in a new shell each time, without input. "
            "Returns its output (stdout and stderr together) and its exit status. Background jobs are killed when it "
            "ends. The middle of a long output is omitted: to see all of it, write it to a file and read that.",
            parameters={
                "type": "object",
                "properties": {
                    "command": {"type": "string", "minLength": 1},
                    "timeout_s": {
                        "type": "number",
                        "exclusiveMinimum": 0,
                        "description": f"Default and maximum: {timeout_s:g}.",
                    },
                },
                "required": ["command"],
                "additionalProperties": False,
            },
            destructive=True,
            timeout_s=timeout_s,
        )

    def command(self, run: ToolRun) -> Command:
        arguments = convert(run.arguments, BashArguments)
        if not run.workspace:
            raise ToolFailed("You have no workspace, so there is no folder to run the command in.")
        if "\0" in arguments.command or arguments.command.encode(errors="ignore").decode() != arguments.command:
            raise ToolFailed("The command contains a NUL or a lone surrogate; a shell cannot take it. Remove it.")
        return Command(argv=("bash", "-c", arguments.command), cwd=run.workspace, timeout_s=arguments.timeout_s)


def _build(_: ToolDeps, settings: ToolSettings) -> BashTool | None:
    offered = isinstance(settings, BashToolSettings) and settings.is_offered
    return BashTool(settings.timeout_s or TIMEOUT_S) if offered else None


BASH = ToolSpec(name="bash", build=_build)
