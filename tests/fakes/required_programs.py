"""Finds programs that tests need.

A test is skipped without its program, or fails if WALRUS_REQUIRE names it.
"""

import os
import shutil

import pytest

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
"""Folders to search: mkfs and similar programs are not in every user's PATH."""


def find_program(name: str) -> str:
    """Returns the path of a program. If it is missing, skips the test, or fails it if it is required."""
    if path := shutil.which(name, path=SEARCH_PATH):
        return path
    if name in os.environ.get("WALRUS_REQUIRE", "").split(","):
        pytest.fail(f"WALRUS_REQUIRE names {name}, and it is not installed")
    pytest.skip(f"{name} is not installed")
