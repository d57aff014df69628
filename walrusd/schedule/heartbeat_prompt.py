"""What a woken agent is told, and what its answer says. Pure: texts in, texts out."""

from collections.abc import Sequence

from msgspec import Struct

NOTHING_TO_REPORT = "HEARTBEAT_OK"
"""The answer of an agent that has nothing to say."""
DEFAULT_PROMPT = f"""\
This is your heartbeat: nobody has written to you, the clock has woken you. See whether anything needs to be done of \
what you are responsible for and of what is listed below, if something is, and do it. Then say in a few sentences what \
a person should know. If there is nothing to do and nothing to tell, answer {NOTHING_TO_REPORT} and nothing else."""
MAX_STORED_ANSWER = 500
"""Characters of an answer that the ledger keeps; the session has all of it."""
_DECORATION_CHARACTERS = " \t\r\n*_`~#>\"'.!"
"""What models put around a word that they were to say alone."""


class PendingWork(Struct, frozen=True):
    """Something that waits for the agent: what it is, and its text as the agent is shown it."""

    title: str
    text: str


def build_message(prompt: str, pending: Sequence[PendingWork]) -> str:
    """What the agent is sent. `prompt` "" is walrusd's own."""
    parts = [prompt.strip() or DEFAULT_PROMPT, *(f"{one.title}\n\n{one.text}" for one in pending)]
    return "\n\n".join(parts)


def is_news(answer: str) -> bool:
    """Whether there is something that a person need read."""
    return answer.strip(_DECORATION_CHARACTERS) != NOTHING_TO_REPORT
