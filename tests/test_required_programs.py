"""Tests of WALRUS_REQUIRE: a test fails instead of skipping if a program that it names is missing."""

import pytest

from tests.fakes.required_programs import find_program


def test_a_program_that_is_installed_is_found() -> None:
    assert find_program("sh").endswith("/sh")


def test_a_missing_program_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALRUS_REQUIRE", "bwrap,rg")
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        find_program("no-such-program")


def test_a_missing_program_that_is_required_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALRUS_REQUIRE", "bwrap,no-such-program")
    with pytest.raises(pytest.fail.Exception, match="WALRUS_REQUIRE names no-such-program"):
        find_program("no-such-program")
