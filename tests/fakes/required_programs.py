"""Tests that need a program: they skip without it, unless WALRUS_REQUIRE names it; then they fail."""

import os
import shutil

import pytest

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""mkfs and its like are not in everybody's PATH."""


def find_program(name: str) -> str:
    """Returns the path of a program. Skips the test that asks if it is missing, or fails it if it is required."""
    if path := shutil.which(name, path=SEARCH_PATH):
        return path
    if name in os.environ.get("WALRUS_REQUIRE", "").split(","):
        pytest.fail(f"WALRUS_REQUIRE names {name}, and it is not installed")
    pytest.skip(f"{name} is not installed")
