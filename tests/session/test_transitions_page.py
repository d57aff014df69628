"""docs/states.md is drawn from the table in session/states.py; run this file as a script to draw it anew."""

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
            "What may follow what, drawn from `walrusd/session/transitions.py`",
            "by `tests/session/test_transitions_page.py`.",
            "An event that has no arrow here is refused before anything is written.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            *lines,
            "    closed --> [*]",
            "```",
            "",
        ]
    )


def test_the_page_shows_the_table_as_it_is() -> None:
    assert PAGE.read_text() == render_page()


if __name__ == "__main__":
    PAGE.write_text(render_page())
