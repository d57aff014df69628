"""`bash` runs a shell command in the agent's workspace, as a process of its own that ends with the call."""

from msgspec import Struct, convert

from walrus_protocol.content import ToolSchema
from walrusd.ports import Command, ToolFailed, ToolRun

TIMEOUT_S = 120.0
"""Long enough for a build or a test run; a model that waits for more should be told to look elsewhere meanwhile."""


class BashArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `bash`, as its schema says them."""

    command: str
    timeout_s: float | None = None


class BashTool:
    """Without a sandbox it can do what the user can: it is there only for who has written that this may be."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.schema = ToolSchema(
            name="bash",
            description="Run a command with `bash -c` in your workspace, each time in a new shell, without input. You "
            "get its output, stdout and stderr together, and its exit status when it has ended; background jobs are "
            "killed then. Of a long output the middle is left out: to see all, write it to a file.",
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
        asked = convert(run.arguments, BashArguments)
        if not run.workspace:
            raise ToolFailed("You have no workspace, and so no folder to run it in.")
        if "\0" in asked.command or asked.command.encode(errors="ignore").decode() != asked.command:
            raise ToolFailed("The command has a NUL, or half of a surrogate pair, in it: no shell can be given that.")
        return Command(argv=("bash", "-c", asked.command), cwd=run.workspace, timeout_s=asked.timeout_s)
