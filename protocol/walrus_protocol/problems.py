"""The error of a request: a code and a kind for programs, a message and a hint for people."""

from walrus_protocol import wire


class Problem(Exception):
    """An expected failure of a request.

    wire.KINDS gives the code of `kind`; `data` is sent along.
    """

    def __init__(self, kind: wire.Kind, message: str, hint: str = "", **data: object) -> None:
        super().__init__(message)
        self.code = wire.KINDS[kind]
        self.kind = kind
        self.message = message
        self.hint = hint
        self.data = data

    def with_data(self, **data: object) -> "Problem":
        """Returns a new Problem that also has `data`: each waiting task must be given an exception of its own."""
        return Problem(self.kind, self.message, self.hint, **{**self.data, **data})

    def __repr__(self) -> str:
        return f"Problem({self.kind!r}, {self.message!r}, {self.hint!r}, {self.data!r})"
