"""Rewrites hints that name protocol methods and params, so that they name walrusctl options."""

import re

# Hints about the key timeout_s of walrus.toml continue with "of [a.table]"; they stay as they are.
_TIMEOUT_PARAM = re.compile(r"\btimeout_s\b(?! of )")
_WHEN_BUSY_PARAM = re.compile(r"\bwhen_busy=(\w+)")
_PARAMS_HINT = re.compile(r"^rpc\.discover and protocol/README\.md \w.*$")
_METHOD_NAME = re.compile(r"\b(no answer) to [\w.]+|\b(before it answered) [\w.]+$")


def as_cli_options(hint: str) -> str:
    """Replaces the params that a hint names by the options that set them."""
    hint = _PARAMS_HINT.sub("run the command with --help to see its options", hint)
    return _WHEN_BUSY_PARAM.sub(r"--when-busy \1", _TIMEOUT_PARAM.sub("--turn-timeout", hint))


def strip_method_names(message: str) -> str:
    """Removes the protocol method from a message: a user of `send` does not know session.stream."""
    return _METHOD_NAME.sub(lambda found: found[1] or found[2], message)
