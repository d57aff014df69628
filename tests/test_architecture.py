"""Tests of the layout of the code.

The import contracts hold and can fail, files are small, and each module has a docstring.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs import architecture_svg

ROOT = Path(__file__).parent.parent
CODE_FOLDERS = ("walrusd", "walrusctl", "protocol", "config", "benchmarks")
PACKAGES = ("walrusd", "walrusctl", "protocol/walrus_protocol", "config/walrus_config")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

MAX_LINES = 350
MAX_TEST_LINES = 450  # a test file may be longer, because it is read one case at a time
LONGER_ALLOWED: dict[str, str] = {}
"""Files that may be longer: path and reason."""

BREACHES = [
    ("walrusd and walrusctl share only the protocol and the configuration", "walrusd/ports.py", "import walrusctl.cli"),
    ("walrusd and walrusctl share only the protocol and the configuration", "walrusctl/cli.py", "import walrusd.ports"),
    (
        "walrusd and walrusctl share only the protocol and the configuration",
        "walrus_protocol/content.py",
        "import walrusd.ports",
    ),
    (
        "walrusd and walrusctl share only the protocol and the configuration",
        "walrus_protocol/content.py",
        "import walrus_config.schema",
    ),
    ("imports inside walrusd point downwards", "walrusd/agent/decide.py", "import walrusd.runtime.hook"),
    ("imports inside walrusd point downwards", "walrusd/tools/files.py", "import walrusd.store.contract"),
    ("imports inside walrusd point downwards", "walrusd/runtime/streams/fanout.py", "import walrusd.rpc.server"),
    ("imports inside the store point downwards", "walrusd/store/tables/inbox.py", "import walrusd.store.contract"),
    ("pure packages do no I/O and log nothing", "walrusd/session/session.py", "import trio"),
    ("pure packages do no I/O and log nothing", "walrus_protocol/connection.py", "import socket"),
    ("the blocking client starts fast", "walrus_protocol/client.py", "import msgspec"),
    ("the blocking client starts fast", "walrus_protocol/client.py", "import walrus_protocol.content"),
    ("the protocol package imports nothing by itself", "walrus_protocol/__init__.py", "import json"),
    ("the file format of the database is the lowest layer", "walrus_protocol/database/reader.py", "import apsw"),
    (
        "the file format of the database is the lowest layer",
        "walrus_protocol/database/schema.py",
        "import walrus_protocol.content",
    ),
    (
        "only the reader of the database opens it with sqlite3",
        "walrus_protocol/database/verify_chain.py",
        "import sqlite3",
    ),
    ("only the reader of the database opens it with sqlite3", "walrusctl/doctor/database.py", "import sqlite3"),
]


def broken_contracts(folder: Path) -> set[str]:
    """Returns the names of the contracts that import-linter finds broken."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = set(re.findall(r"^(.+?) BROKEN(?: \(.*\))?$", done.stdout, re.MULTILINE))
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    assert (done.returncode != 0) == bool(found)
    return found


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    """Returns a folder with copies of the packages and the contracts, in which a test can plant a breach."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def source_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_the_contracts_hold(package_copy: Path) -> None:
    assert broken_contracts(package_copy) == set()


@pytest.mark.parametrize(("contract", "module", "line"), BREACHES, ids=[f"{m}: {line}" for _, m, line in BREACHES])
def test_a_planted_breach_is_found(package_copy: Path, contract: str, module: str, line: str) -> None:
    with open(package_copy / module, "a") as file:
        file.write(f"\n{line}\n")
    assert contract in broken_contracts(package_copy)


def test_a_package_that_no_contract_names_is_found(package_copy: Path) -> None:
    (package_copy / "walrusd" / "unplaced.py").write_text('"""A module without a layer."""\n')
    assert "imports inside walrusd point downwards" in broken_contracts(package_copy)


def test_the_drawing_of_the_packages_is_the_one_that_the_contracts_give() -> None:
    drawn = (ROOT / "docs/architecture.svg").read_text()
    assert drawn == architecture_svg.draw(), "run: python -m docs.architecture_svg docs/architecture.svg"


def test_every_contract_has_a_planted_breach() -> None:
    assert {contract for contract, _, _ in BREACHES} == {contract["name"] for contract in CONTRACTS}


def test_every_protocol_module_except_clients_and_readers_of_the_database_is_under_the_purity_contract() -> None:
    [pure] = [contract for contract in CONTRACTS if contract["name"].startswith("pure packages")]
    folder = ROOT / "protocol" / "walrus_protocol"
    parts = [path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    modules = {f"walrus_protocol.{part}" for part in parts if part not in ("__init__", "database")}
    modules |= {f"walrus_protocol.database.{path.stem}" for path in folder.glob("database/[a-z]*.py")}
    clients = {f"walrus_protocol.{name}" for name in ("client", "async_client", "aclient", "client_transport")}
    readers = {f"walrus_protocol.database.{name}" for name in ("reader", "consistency", "verify_chain")}
    assert modules - clients - readers <= set(pure["source_modules"])


def test_the_init_module_of_the_protocol_imports_nothing() -> None:
    tree = ast.parse((ROOT / "protocol/walrus_protocol/__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_files_are_within_the_line_limit() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in source_files(*CODE_FOLDERS, "tests")}
    large = {
        str(path.relative_to(ROOT)): lines
        for path, lines in sizes.items()
        if lines > (MAX_TEST_LINES if path.is_relative_to(ROOT / "tests") else MAX_LINES)
    }
    assert large.keys() == LONGER_ALLOWED.keys(), f"these files are too long; split them: {large}"


@pytest.mark.slow
def test_every_module_has_a_docstring() -> None:
    without_docstring = [
        str(path.relative_to(ROOT))
        for path in source_files(*CODE_FOLDERS, "tests")
        if (text := path.read_text()).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert without_docstring == []


def test_a_class_name_exists_once() -> None:
    places: dict[str, list[str]] = {}
    for path in source_files(*CODE_FOLDERS, "tests"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
