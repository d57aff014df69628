"""From what a provider answered instead of an answer to a ModelFailed that a person can act on.

Pure. Every text that comes from outside passes `shown`: capped, on one line, and without the secrets we sent.
"""

from collections.abc import Iterable

from msgspec import Struct

from walrus_protocol.content import TurnErrorKind
from walrus_protocol.json import BadJson, Decoder
from walrusd.ports import ModelFailed

MAX_ERROR_TEXT_CHARS = 500
"""Characters of a provider's own words in an error: enough for a sentence, too few for a page of HTML."""

MIN_SECRET_CHARS = 6
"""Servers that want no key are given one like "x"; hiding that would only make holes in every sentence."""

RETRYABLE: frozenset[TurnErrorKind] = frozenset(
    {"provider_rate_limited", "provider_overloaded", "provider_timeout", "provider_network"}
)


class ProviderCallFailed(ModelFailed):
    """One exchange failed. `retry_after_s` is how long the provider asks to be left alone."""

    def __init__(
        self, kind: TurnErrorKind, message: str, hint: str, *, retryable: bool, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(kind, message, hint)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ProviderContext(Struct, frozen=True, kw_only=True):
    """Whom we spoke to, as an error names it."""

    provider: str
    host: str
    model: str
    secrets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"provider {self.provider} ({self.host}), model {self.model}"

    def failure(
        self,
        kind: TurnErrorKind,
        what: str,
        *,
        detail: str = "",
        retryable: bool | None = None,
        retry_after_s: float = 0.0,
    ) -> ProviderCallFailed:
        """`what` continues the place in a sentence; `said` are the provider's own words."""
        words = redact_and_truncate(detail, self.secrets)
        return ProviderCallFailed(
            kind,
            f"{self} {what}{words and ': '}{words}",
            self._hint(kind),
            retryable=kind in RETRYABLE if retryable is None else retryable,
            retry_after_s=retry_after_s,
        )

    def failure_from_response(
        self, status: int | None, body: bytes, *, retry_after_s: float = 0.0
    ) -> ProviderCallFailed:
        """The failure that a status and its body tell of; None for an error inside an answer that began well."""
        error = decode_error_body(body)
        if status is None:
            status = error.status
            what = "reported an error in its answer"
        else:
            what = f"answered {status}"
        if retry_after_s:
            what = f"{what} and asks to wait {retry_after_s:.0f} s"
        return self.failure(classify_error(status, error), what, detail=error.text, retry_after_s=retry_after_s)

    def _hint(self, kind: TurnErrorKind) -> str:
        table = f"[providers.{self.provider}] in walrus.toml"
        return {
            "provider_auth": f"Check api_key of {table}.",
            "provider_quota": f"Check the plan and the billing of the account whose api_key stands in {table}.",
            "provider_rate_limited": "Wait a while, or use another model.",
            "provider_overloaded": "The trouble is on the provider's side. Try again later, or use another model.",
            "provider_timeout": f"Try again, or raise idle_timeout_s or timeout_s of {table}.",
            "provider_network": f"Check the network, and base_url of {table}.",
            "provider_bad_response": f"Check that base_url of {table} is an OpenAI-compatible server.",
            "provider_refused": "Say it in another way, or ask another model.",
            "context_length": "Too long for this model. Start a new session, or use a larger model.",
            "model_not_found": f"Check the model's name, and base_url of {table}.",
        }.get(kind, "")


class ProviderErrorBody(Struct, frozen=True):
    """What an error body says, as far as it says it."""

    text: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None


def redact_and_truncate(text: str, secrets: Iterable[str]) -> str:
    """A foreign text as it may stand in an error."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, "***")
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_ERROR_TEXT_CHARS else f"{text[:MAX_ERROR_TEXT_CHARS]}…"


_any_json: Decoder[object] = Decoder(object)


def decode_error_body(body: bytes) -> ProviderErrorBody:
    """An error body in any of the shapes that are about: {error: {…}}, {error: text}, {message}, {detail}, text."""
    try:
        found = _any_json.decode(body)
    except BadJson:
        return ProviderErrorBody(text=body.decode(errors="replace"))
    if isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, dict) and found.get("error"):
        found = found["error"]
    if not isinstance(found, dict):
        return ProviderErrorBody(text=found if isinstance(found, str) else body.decode(errors="replace"))
    code = found.get("code")
    text = found.get("message") or found.get("detail")
    return ProviderErrorBody(
        text=text if isinstance(text, str) else body.decode(errors="replace"),
        code=str(code or ""),
        type=str(found.get("type") or ""),
        status=code if isinstance(code, int) else None,
    )


def classify_error(status: int | None, error: ProviderErrorBody) -> TurnErrorKind:
    """The kind of a refusal. A code says more than a status, a status more than a text."""
    words = {error.code.lower(), error.type.lower()}
    for kind, names in _KIND_BY_CODE.items():
        if words & names:
            return kind
    text = error.text.lower()
    if status in {None, 400, 413, 422, 500} and any(phrase in text for phrase in _CONTEXT_LENGTH_PHRASES):
        return "context_length"
    if status is None:
        return "provider_bad_response"
    return _KIND_BY_STATUS.get(status, "provider_overloaded" if status >= 500 else "provider_bad_response")


_KIND_BY_CODE: dict[TurnErrorKind, frozenset[str]] = {
    "provider_quota": frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}),
    "context_length": frozenset({"context_length_exceeded", "exceed_context_size_error"}),
    "model_not_found": frozenset({"model_not_found"}),
    "provider_auth": frozenset({"invalid_api_key", "authentication_error"}),
    "provider_refused": frozenset({"content_filter", "content_policy_violation"}),
    "provider_rate_limited": frozenset({"rate_limit_exceeded", "rate_limit_error"}),
    "provider_overloaded": frozenset({"overloaded", "overloaded_error", "server_error", "service_unavailable"}),
}
_KIND_BY_STATUS: dict[int, TurnErrorKind] = {
    401: "provider_auth",
    402: "provider_quota",
    403: "provider_auth",
    404: "model_not_found",
    408: "provider_timeout",
    409: "provider_overloaded",
    413: "context_length",
    429: "provider_rate_limited",
    504: "provider_timeout",
}
_CONTEXT_LENGTH_PHRASES = ("context length", "context window", "context size", "prompt is too long", "too many tokens")
"""How servers without a code for it say that a request is too long."""
