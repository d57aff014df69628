"""The README says what is true: its tour is typed, its example is run, its tables are held against the project."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BIN = str(Path(sys.executable).parent)


def code_block(language: str, heading: str) -> str:
    """The first fenced block of a language behind a heading."""
    _, _, rest = README.partition(f"## {heading}\n")
    found = re.search(rf"```{language}\n(.*?)```", rest, re.DOTALL)
    assert found, f"there is no {language} block under {heading}"
    return found[1]


def mask_variable_parts(text: str, home: str) -> str:
    """What differs from run to run, and nothing else, put out of sight."""
    text = text.replace(home, "/tmp/walrus-tour")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<when>", text)
    text = re.sub(r"\d+ ms", "<ms>", text)
    text = re.sub(r"\b\d+\.\d s\b", "<s>", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_the_tour_gives_what_it_shows(tmp_path: Path) -> None:
    tour = code_block("console", "A five-minute tour")
    commands = [line.removeprefix("$ ") for line in tour.splitlines() if line.startswith("$ ")]
    home = str(tmp_path / "h")
    typed = [
        command.replace("/tmp/walrus-tour", home).replace("$PWD/.venv/bin", BIN)
        for command in commands
        if not command.startswith("make ")
    ]
    script = "".join(f"cat <<'SHOWN'\n$ {command}\nSHOWN\n{command}\n" for command in typed)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("WALRUS")}
    ran = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shown = [line for line in tour.splitlines() if not line.startswith("$ make ")]
    assert mask_variable_parts(ran.stdout.replace(BIN, "$PWD/.venv/bin"), home) == mask_variable_parts(
        "\n".join(shown), home
    )


def test_the_example_of_the_library_runs() -> None:
    example = code_block("python", "As a library")
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-5:] == ["UserMessage", "TextDelta", "AssistantMessage", "Done", "2"]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["project"]["dependencies"],
        *extras["local"],
        *extras["soak"],
        *extras["dev"],
        *project["build-system"]["requires"],
    ]
    names = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in wanted}
    table = README.partition("## Dependencies")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")][2:]
    told = {name.strip() for row in rows for name in re.sub(r"\(.*?\)", "", row).split(",")}
    assert told == names
