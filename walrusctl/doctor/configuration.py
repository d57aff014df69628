"""Could walrusd start with the files as they are now?"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from walrus_config.errors import ConfigError, ConfigProblem
from walrusctl.doctor.check import Check
from walrusctl.doctor.context import DoctorContext

if TYPE_CHECKING:
    from walrus_config.schema import Config

_REPORTED_BY_OTHER_CHECKS = ("none is configured", "others may read", "runs without a sandbox")
"""Of warnings that are findings of their own: of the providers, the files and the sandbox."""


def read_config(home: str) -> "Config | ConfigError":
    # msgspec and the parsers are for this command: importing it must cost no other anything.
    from walrus_config.load import load

    try:
        return load(home, environ=os.environ)
    except ConfigError as error:
        return error


def check_configuration(context: DoctorContext) -> Iterator[Check]:
    config, refusal = context.config, context.daemon and context.daemon.start_error
    if isinstance(config, ConfigError):
        if refusal == "":
            yield Check(
                "configuration",
                "warning",
                f"walrusd can read it, but not from here: {_format_problem(config.problems[0])}",
                "its environment has what this one lacks; so the providers cannot be tried from here",
            )
            return
        for problem in config.problems:
            yield Check("configuration", "broken", _format_problem(problem), problem.hint)
        return
    if refusal:
        hint = "it is the environment of walrusd that counts: for a service, that of its unit"
        yield Check("configuration", "broken", f"walrusd could not start again: {refusal}", hint)
        return
    told = [warning for warning in config.warnings if not any(said in warning for said in _REPORTED_BY_OTHER_CHECKS)]
    for warning in told:
        yield Check("configuration", "warning", warning)
    if not told:
        agents, providers = len(config.agents), len(config.providers)
        yield Check("configuration", "fine", f"{config.path}: agents: {agents}, providers: {providers}")


def _format_problem(problem: ConfigProblem) -> str:
    return str(problem._replace(hint=""))
