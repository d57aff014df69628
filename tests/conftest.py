"""What every test shares: a quiet log."""

import logging

import pytest
import structlog
from hypothesis import settings

settings.register_profile("thorough", max_examples=20_000, deadline=None)
"""`pytest --hypothesis-profile=thorough`: an hour instead of a minute."""


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """Only errors are printed, where pytest shows them beside a failure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
