"""Draws the packages and the allowed imports from the contracts in pyproject.toml, as an SVG.

    python -m docs.architecture_svg docs/architecture.svg

Each package may import those below it. Packages beside each other may not import one another. Packages marked "no I/O"
import nothing that waits, logs or touches the operating system.
"""

import ast
import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE_FOLDERS = (ROOT, ROOT / "protocol", ROOT / "config")
WIDTH, MARGIN, GAP = 980, 16, 8
"""Pixels: of the drawing, of the space around it, and between boxes."""
SIDE_WIDTH = 190
"""Pixels of the column of walrusctl."""
LINE_HEIGHT, PADDING, CHARACTER_WIDTH = 15, 8, 6.3
"""Pixels: of a line, of the space around a text, and of a character of the 12 px font on average."""
STYLE = """
svg { font: 12px system-ui, sans-serif }
rect { fill: #fff; stroke: #57606a }
rect.group { fill: #f6f8fa; stroke-dasharray: 4 3 }
text { fill: #1f2328 } text.name { font-weight: 600 } text.note { fill: #57606a }
line { stroke: #57606a } marker path { fill: #57606a }
@media (prefers-color-scheme: dark) {
  rect { fill: #161b22; stroke: #8b949e } rect.group { fill: #0d1117 }
  text { fill: #e6edf3 } text.note { fill: #8b949e }
  line { stroke: #8b949e } marker path { fill: #8b949e }
}
"""


CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
[WITHOUT_IO] = [set(one["source_modules"]) for one in CONTRACTS if one["name"].startswith("pure packages")]


class Box(NamedTuple):
    """A package with its first docstring line, wrapped to the width of its box."""

    name: str
    lines: list[str]
    width: float

    @property
    def height(self) -> float:
        return 2 * PADDING + LINE_HEIGHT * (1 + len(self.lines))


def read_layers() -> tuple[list[list[str]], list[list[str]]]:
    """Returns the layers of the whole project and those inside walrusd, the highest first.

    A layer is a list of packages that may not import each other.
    """
    layered = {tuple(one.get("containers", ())): one["layers"] for one in CONTRACTS if one["type"] == "layers"}
    whole, inside = layered[()], layered["walrusd",]
    return [_names(layer) for layer in whole], [[f"walrusd.{name}" for name in _names(layer)] for layer in inside]


def _names(layer: str) -> list[str]:
    return [name.strip() for name in layer.split("|")]


def summary(name: str) -> str:
    """Returns the first line of a package's or module's docstring, or "" if it has none."""
    for folder in SOURCE_FOLDERS:
        path = folder / name.replace(".", "/")
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.exists():
                return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
    raise LookupError(f"the contracts name {name}, which does not exist")


def make_box(name: str, width: float) -> Box:
    shown = name.removeprefix("walrusd.") + (" · no I/O" if name in WITHOUT_IO else "")
    return Box(shown, textwrap.wrap(summary(name), int((width - 2 * PADDING) / CHARACTER_WIDTH)), width)


def draw_box(box: Box, x: float, y: float, height: float, style: str = "box") -> list[str]:
    parts = [
        f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{box.width:g}" height="{height:g}" rx="5"/>',
        f'<text class="name" x="{x + PADDING:g}" y="{y + PADDING + 11:g}">{escape(box.name)}</text>',
    ]
    for number, line in enumerate(box.lines, 1):
        baseline = y + PADDING + 11 + number * LINE_HEIGHT
        parts.append(f'<text class="note" x="{x + PADDING:g}" y="{baseline:g}">{escape(line)}</text>')
    return parts


def draw_rows(layers: list[list[str]], x: float, y: float, width: float) -> tuple[list[str], float]:
    """Draws a row for each layer; returns the parts and the y coordinate below the last row."""
    parts: list[str] = []
    for layer in layers:
        boxes = [make_box(name, (width - GAP * (len(layer) - 1)) / len(layer)) for name in layer]
        height = max(box.height for box in boxes)
        for number, box in enumerate(boxes):
            parts += draw_box(box, x + number * (box.width + GAP), y, height)
        y += height + GAP
    return parts, y


def draw() -> str:
    (top, bottom), inside = read_layers()
    assert top == ["walrusd", "walrusctl"], "the drawing shows walrusd's packages beside walrusctl"
    inner_width = WIDTH - 2 * MARGIN - SIDE_WIDTH - GAP
    title_height = LINE_HEIGHT + PADDING
    rows, below = draw_rows(inside, MARGIN + GAP, MARGIN + title_height, inner_width - 2 * GAP)
    group = Box("walrusd", [], inner_width)
    side = make_box("walrusctl", SIDE_WIDTH)
    parts = draw_box(group, MARGIN, MARGIN, below - MARGIN, "group") + rows
    parts += draw_box(side, MARGIN + inner_width + GAP, MARGIN, below - MARGIN)
    arrow_end = below + 3 * GAP
    for x in (MARGIN + inner_width / 2, MARGIN + inner_width + GAP + SIDE_WIDTH / 2):
        parts.append(f'<line x1="{x:g}" y1="{below:g}" x2="{x:g}" y2="{arrow_end - 3:g}" marker-end="url(#arrow)"/>')
    shared, end = draw_rows([bottom], MARGIN, arrow_end, WIDTH - 2 * MARGIN)
    height = end - GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}">',
            f"<style>{STYLE}</style>",
            '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
            '<path d="M0 0 8 4 0 8z"/></marker>',
            *parts,
            *shared,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw())
