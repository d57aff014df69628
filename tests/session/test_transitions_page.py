"""Checks that docs/states.md matches session/transitions.py; as a script it writes the page."""

from pathlib import Path

from walrusd.session.transitions import TRANSITIONS

PAGE = Path(__file__).parents[2] / "docs" / "states.md"


def render_page() -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before or "[*]", after), []).append(str(event.__struct_config__.tag))
    arrows["processing", "error"] = ["done {error}"]
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    return "\n".join(
        [
            "# The states of a session",
            "",
            "The allowed transitions, generated from `walrusd/session/transitions.py`",
            "by `tests/session/test_transitions_page.py`.",
            "An event without an arrow here is refused before anything is written.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            *lines,
            "    closed --> [*]",
            "```",
            "",
        ]
    )


def test_the_page_shows_the_current_table() -> None:
    assert PAGE.read_text() == render_page()


if __name__ == "__main__":
    PAGE.write_text(render_page())
