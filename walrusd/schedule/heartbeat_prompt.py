"""Builds the message of a heartbeat and recognises an answer that reports nothing. Pure functions."""

from collections.abc import Sequence

from msgspec import Struct

NOTHING_TO_REPORT = "HEARTBEAT_OK"
"""The answer of an agent that has nothing to report."""
DEFAULT_PROMPT = f"""\
This is your heartbeat: nobody has written to you; a timer has woken you. Check whether anything needs to be done in \
your area of responsibility, or in the list below if there is one, and do it. Then report in a few sentences what a \
person should know. If there is nothing to do and nothing to report, answer {NOTHING_TO_REPORT} and nothing else."""
MAX_STORED_ANSWER = 500
"""Maximum characters of an answer in the ledger; the session has the whole answer."""
_DECORATION_CHARACTERS = " \t\r\n*_`~#>\"'.!"
"""Characters that models put around a word although they were asked to answer with that word alone."""


class PendingWork(Struct, frozen=True):
    """A piece of pending work for the agent: a title, and the text that is shown to the agent."""

    title: str
    text: str


def build_message(prompt: str, pending: Sequence[PendingWork]) -> str:
    """Returns the message to the agent. An empty `prompt` stands for DEFAULT_PROMPT."""
    parts = [prompt.strip() or DEFAULT_PROMPT, *(f"{work.title}\n\n{work.text}" for work in pending)]
    return "\n\n".join(parts)


def is_news(answer: str) -> bool:
    """Returns whether the answer reports something that a person should read."""
    return answer.strip(_DECORATION_CHARACTERS) != NOTHING_TO_REPORT
