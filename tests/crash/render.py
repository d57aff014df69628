"""Runs the crash matrix: `python -m tests.crash.render` prints and writes docs/crash-matrix.md.

If its argument is the name of a part, it prints only that section and writes nothing.
"""

import gc
import sys
import tempfile
from pathlib import Path

from tests.crash.forked_runs import ForkedRuns
from tests.crash.matrix_page import HEAD, SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "crash-matrix.md"


def render_section(part: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return SECTIONS[part](ForkedRuns(Path(folder)))


def main() -> None:
    gc.freeze()  # forked children share these objects as long as the collector does not write to them
    if parts := sys.argv[1:]:
        sys.stdout.write("\n".join(map(render_section, parts)))
        return
    page = "\n\n".join([HEAD, *map(render_section, SECTIONS)]) + "\n"
    sys.stdout.write(page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
