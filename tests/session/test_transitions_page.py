"""Checks that docs/states.md matches session/transitions.py; as a script it writes the page."""

from pathlib import Path

from walrusd.session.transitions import TRANSITIONS, WHILE_EXECUTING

PAGE = Path(__file__).parents[2] / "docs" / "states.md"
PAGE_START = """\
# The states of a session

The phases of a session, and the events that lead from one to the next. This page is generated from
`walrusd/session/transitions.py` by `tests/session/test_transitions_page.py`.
An event without an arrow here is refused before anything is written.

```mermaid
stateDiagram-v2
"""
PAGE_END = """\
    closed --> [*]
```

In a turn, the calls of the model's last answer are executing from `tool_calls_start` to `tool_calls_complete`:

- only while they are, {executing} are allowed;
- only while they are not, {not_executing} are allowed.

The state that clients see follows from the phase and its events:

| phase | state |
|---|---|
| idle | `error` if the last turn failed, otherwise `idle` |
| turn | `executing_tool` while calls are executing, otherwise `processing` |
| closed | `closed` |
"""


def render_page() -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault(("[*]" if before == "new" else before, after), []).append(str(event.__struct_config__.tag))
    lines = [f"    {before} --> {after}: {', '.join(events)}\n" for (before, after), events in arrows.items()]
    rules = [
        ", ".join(
            f"`{event.__struct_config__.tag}`" for event, expected in WHILE_EXECUTING.items() if expected is value
        )
        for value in (True, False)
    ]
    return "".join([PAGE_START, *lines, PAGE_END.format(executing=rules[0], not_executing=rules[1])])


def test_the_page_shows_the_current_table() -> None:
    assert PAGE.read_text() == render_page()


if __name__ == "__main__":
    PAGE.write_text(render_page())
