"""The built-in tools: one module or folder for each family."""

from walrusd.tools.bash import BASH
from walrusd.tools.files import READ
from walrusd.tools.spec import ToolSpec

TOOLS: tuple[ToolSpec, ...] = (READ, BASH)
