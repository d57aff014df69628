"""Draws the console example of a page as an animated SVG of a terminal, from a run in a real shell.

    python -m docs.record_svg README.md docs/first-minute.svg

Typing is drawn at a fixed speed; output appears after the time that the command really took, at most MAX_WAIT_S.
"""

import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from docs.console import Output, commands_of, console_block, replay

COLUMNS, ROWS = 100, 24
CELL_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 19, 14
"""Pixels of a character of the 14 px monospace font, of a line, and around the text."""
TYPING_S = 0.03
"""Seconds for one typed character: a fast typist."""
MAX_WAIT_S = 1.5
READING_S = 0.9
"""Seconds of the pause after each output, to read it."""
END_S = 4.0
"""Seconds of the pause before the animation starts again."""


class Frame(NamedTuple):
    """The lines that the terminal shows from `at_s` on, in seconds after the start."""

    at_s: float
    lines: list[str]


def wrap(line: str) -> list[str]:
    return [line[start : start + COLUMNS] for start in range(0, max(len(line), 1), COLUMNS)]


def frames(outputs: list[Output]) -> tuple[list[Frame], float]:
    """Returns the frames and the length of the animation in seconds."""
    clock, screen, found = 0.0, list[str](), list[Frame]()
    for output in outputs:
        typed = wrap(f"$ {output.command}")
        for length in range(2, len(output.command) + 3, 4):
            found.append(Frame(clock, (screen + wrap(f"$ {output.command}"[:length] + "▏"))[-ROWS:]))
            clock += 4 * TYPING_S
        screen += typed
        found.append(Frame(clock, screen[-ROWS:]))
        clock += min(output.ended_s - output.started_s, MAX_WAIT_S)
        screen += [row for line in output.lines for row in wrap(line)]
        found.append(Frame(clock, screen[-ROWS:]))
        clock += READING_S
    return found, clock + END_S


def draw(found: list[Frame], total_s: float) -> str:
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * LINE_HEIGHT + 2 * MARGIN
    ends = [frame.at_s for frame in found[1:]] + [total_s]
    font = 'font-size="14" font-family="ui-monospace, Menlo, Consolas, monospace"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {font}>',
        "<title>The first minute with walrusd, recorded from a terminal</title>",
        "<style>text{white-space:pre;fill:#d8dee9} .typed{fill:#a3be8c}",
        f"g{{visibility:hidden;animation:{total_s:.2f}s infinite step-end}}",
    ]
    for number, (frame, end_s) in enumerate(zip(found, ends, strict=True)):
        begin, end = 100 * frame.at_s / total_s, 100 * end_s / total_s
        shown = f"{begin:.3f}%{{visibility:visible}}"
        parts.append(f"@keyframes f{number}{{0%{{visibility:hidden}}{shown}{end:.3f}%{{visibility:hidden}}}}")
    parts.append('</style><rect width="100%" height="100%" rx="8" fill="#2e3440"/>')
    for number, frame in enumerate(found):
        rows = "".join(
            f'<text x="{MARGIN}" y="{MARGIN + 14 + row * LINE_HEIGHT}"{_style(line)}>{escape(line)}</text>'
            for row, line in enumerate(frame.lines)
            if line
        )
        parts.append(f'<g style="animation-name:f{number}">{rows}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _style(line: str) -> str:
    return ' class="typed"' if line.startswith("$ ") else ""


if __name__ == "__main__":
    page, picture = sys.argv[1:]
    hidden = ("make ", "bash", "exit", "rm ")
    commands = commands_of(console_block(Path(page).read_text()))
    recorded = [output for output in replay(commands) if not output.command.startswith(hidden)]
    Path(picture).write_text(draw(*frames(recorded)))
