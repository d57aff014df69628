"""Doctor check of the configuration: could walrusd start with the files as they are now?"""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from walrus_config.errors import ConfigError, ConfigProblem
from walrusctl.doctor.check import Finding
from walrusctl.doctor.context import DoctorContext

if TYPE_CHECKING:
    from walrus_config.schema import Config

_REPORTED_BY_OTHER_CHECKS = ("none is configured", "others may read", "runs without a sandbox")
"""Parts of warnings that the checks of the providers, the files and the sandbox already report."""


def read_config(home: str) -> "Config | ConfigError":
    # Imported here: only this command needs msgspec and the parsers.
    from walrus_config.load import load

    try:
        return load(home, environ=os.environ)
    except ConfigError as error:
        return error


def check_configuration(context: DoctorContext) -> Iterator[Finding]:
    config, start_error = context.config, context.daemon and context.daemon.start_error
    if isinstance(config, ConfigError):
        if start_error == "":
            yield Finding(
                "warning",
                f"walrusd can load it, but this shell cannot: {_format_problem(config.problems[0])}",
                "walrusd has environment variables that this shell lacks; export them to check the providers from here",
            )
            return
        for problem in config.problems:
            yield Finding("error", _format_problem(problem), problem.hint)
        return
    if start_error:
        hint = "check the environment variables of walrusd; a service has those of its unit, not those of your shell"
        yield Finding("error", f"walrusd could not restart: {start_error}", hint)
        return
    warnings = [
        warning for warning in config.warnings if not any(part in warning for part in _REPORTED_BY_OTHER_CHECKS)
    ]
    for warning in warnings:
        yield Finding("warning", warning)
    if not warnings:
        agents, providers = len(config.agents), len(config.providers)
        yield Finding("ok", f"{config.path}: agents: {agents}, providers: {providers}")


def _format_problem(problem: ConfigProblem) -> str:
    return str(problem._replace(hint=""))
