"""Tests that the documentation is true.

Its console examples are typed, its library example runs, and its tables match the project.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs import console
from docs.console import commands_of, console_block, mask_variable_parts, render, replay
from tests.fakes.home import Home

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "protocol/README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tour.md"])
def test_a_console_example_prints_what_the_page_shows(page: str) -> None:
    shown = console_block((ROOT / page).read_text())
    found = render(list(replay(commands_of(shown))))
    assert mask_variable_parts(found) == mask_variable_parts(shown), f"`make docs` writes {page} again"


def test_the_recording_shows_the_quick_start() -> None:
    picture = (ROOT / "docs/first-minute.svg").read_text()
    commands = commands_of(console_block((ROOT / "README.md").read_text()))
    shown = [command for command in commands if command.startswith("walrusctl") and len(command) < 90]
    missing = [command for command in shown if f">$ {_xml(command)}</text>" not in picture]
    assert missing == [], "`make docs` records it again"


def test_the_library_example_runs() -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    assert found
    ran = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-5:] == ["UserMessage", "TextDelta", "AssistantMessage", "Done", "2"]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    requirements = [
        *project["project"]["dependencies"],
        *(requirement for extra in extras.values() for requirement in extra),
        *project["build-system"]["requires"],
    ]
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in requirements}
    page = (ROOT / "docs/dependencies.md").read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("|")][2:]
    listed = {name.strip() for row in rows for name in re.sub(r"\(.*?\)", "", row).split(",")}
    assert listed == names


def test_every_run_time_dependency_has_a_floor_and_a_ceiling_and_is_locked_between_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.lower().replace("_", "-").split("==") for line in lock if "==" in line)
    optional = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *optional["local"], *optional["soak"]]:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+),<([\d.]+)", requirement)
        assert found, f"{requirement} needs a floor and a ceiling"
        name, floor, ceiling = found.groups()
        assert _version(floor) <= _version(locked[name.lower()]) < _version(ceiling), requirement


def test_the_readme_is_short_and_every_link_of_the_documentation_leads_somewhere() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_of_the_documentation_is_listed_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme] == []


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_an_example_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "TIMEOUT_S", 0.2)
    with pytest.raises(RuntimeError, match="sleep 1000"):
        list(replay(["sleep 1000"]))


def test_the_configuration_that_the_readme_shows_is_accepted(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    home = Home(tmp_path / "home", "".join(blocks))
    home.write("agents/researcher.md", "You research.")
    (home.path / "workspace").mkdir()
    (home.path.parent / "models").mkdir()
    (home.path.parent / "models/some-model.gguf").write_bytes(b"GGUF")
    checked = home.walrusctl("config", "check", environ={"DEEPSEEK_API_KEY": "sk-example"})
    assert (checked.returncode, checked.stdout) == (0, f"ok: {home.toml}\n"), checked.stderr
