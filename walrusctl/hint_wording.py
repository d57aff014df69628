"""What walrusd and the client say in the wire's words, in those of the command line."""

import re

# The same name in walrus.toml is another thing: there it is said to be "of [a.table]".
_TIMEOUT_PARAM = re.compile(r"\btimeout_s\b(?! of )")
_WHEN_BUSY_PARAM = re.compile(r"\bwhen_busy=(\w+)")
_PARAMS_HINT = re.compile(r"^rpc\.discover and protocol/README\.md say what [\w.]+ takes$")
_METHOD_NAME = re.compile(r"\b(no answer) to [\w.]+|\b(before it answered) [\w.]+$")


def as_cli_options(hint: str) -> str:
    """The params that a hint names, as the options that set them."""
    hint = _PARAMS_HINT.sub("`--help` behind the command says what it takes", hint)
    return _WHEN_BUSY_PARAM.sub(r"--when-busy \1", _TIMEOUT_PARAM.sub("--turn-timeout", hint))


def strip_method_names(message: str) -> str:
    """A failed wait, without the method that was waited for: who typed `send` knows of no session.stream."""
    return _METHOD_NAME.sub(lambda found: found[1] or found[2], message)
