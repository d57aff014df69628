"""Turns error responses of providers into ModelFailed errors with a kind, a message and a hint.

Pure. Every text from outside passes `error_text`: without the secrets we sent, on one line, and truncated.
"""

from msgspec import Struct

from walrus_protocol.content import TurnErrorKind
from walrus_protocol.json import BadJson, Decoder
from walrusd.observability.redaction import Redaction
from walrusd.ports import ModelFailed

MAX_ERROR_TEXT_CHARS = 500
"""Maximum characters of a provider's text in an error: a sentence fits, a page of HTML does not."""

MAX_REDACTED_CHARS = 8192
"""Maximum characters of a provider's text that are looked at; of what is longer only the beginning is shown.

It must be less than the shortest text that a reader of a response cuts, so that no secret is cut before it is redacted.
"""

RETRYABLE: frozenset[TurnErrorKind] = frozenset(
    {"provider_rate_limited", "provider_overloaded", "provider_timeout", "provider_network"}
)
"""The kinds of errors that are retried, unless the failure itself overrides it."""


class ProviderCallFailed(ModelFailed):
    """One exchange with a provider failed; `retry_after_s` is the delay that the provider asks for."""

    def __init__(
        self, kind: TurnErrorKind, message: str, hint: str, *, retryable: bool, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(kind, message, hint)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ProviderContext(Struct, frozen=True, kw_only=True):
    """The provider, host and model of a request, as an error names them."""

    provider: str
    host: str
    model: str
    redact: Redaction
    """Redacts all that is sent to this provider."""
    bad_response_hint: str

    def __str__(self) -> str:
        return f"provider {self.provider} ({self.host}), model {self.model}"

    def failure(
        self,
        kind: TurnErrorKind,
        predicate: str,
        *,
        detail: str = "",
        retryable: bool | None = None,
        retry_after_s: float = 0.0,
    ) -> ProviderCallFailed:
        """Returns an error with the message "provider …, model … <predicate>: <detail>".

        `detail` is the provider's own text; it is redacted and truncated here.
        """
        shown = error_text(detail, self.redact)
        return ProviderCallFailed(
            kind,
            f"{self} {predicate}{shown and ': '}{shown}",
            self._hint(kind),
            retryable=kind in RETRYABLE if retryable is None else retryable,
            retry_after_s=retry_after_s,
        )

    def failure_from_response(
        self, status: int | None, body: bytes, *, retry_after_s: float = 0.0
    ) -> ProviderCallFailed:
        """Returns the error for a response; `status` is None for an error inside an answer with status 200."""
        error = decode_error_body(body)
        if status is None:
            status = error.status
            predicate = "reported an error in its answer"
        else:
            predicate = f"answered {status}"
        if retry_after_s:
            predicate = f"{predicate} and asks to wait {retry_after_s:.0f} s"
        return self.failure(classify_error(status, error), predicate, detail=error.text, retry_after_s=retry_after_s)

    def _hint(self, kind: TurnErrorKind) -> str:
        table = f"[providers.{self.provider}] in walrus.toml"
        return {
            "provider_auth": f"Check api_key of {table}.",
            "provider_quota": f"Check the plan and the billing of the account. Its api_key is in {table}.",
            "provider_rate_limited": "Wait a while, or use another model.",
            "provider_overloaded": "The problem is on the provider's side. Try again later, or use another model.",
            "provider_timeout": f"Try again, or raise idle_timeout_s or timeout_s of {table}.",
            "provider_network": f"Check the network, and base_url of {table}.",
            "provider_bad_response": self.bad_response_hint,
            "provider_refused": "Rephrase the message, or use another model.",
            "context_length": "The request is too long for this model. Start a new session, or use a larger model.",
            "model_not_found": f"Check the model's name, and base_url of {table}.",
        }.get(kind, "")


class ProviderErrorBody(Struct, frozen=True):
    """The fields found in an error body; a missing one is empty, a missing `status` is None."""

    text: str = ""
    code: str = ""
    type: str = ""
    status: int | None = None


def error_text(text: str, redact: Redaction) -> str:
    """Returns a foreign text that may be put in an error: without secrets, on one line, and only then truncated."""
    if len(text) > MAX_REDACTED_CHARS:
        text, _ = redact.split_safe_prefix(text[:MAX_REDACTED_CHARS])
    else:
        text = redact(text)
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_ERROR_TEXT_CHARS else f"{text[:MAX_ERROR_TEXT_CHARS]}…"


_any_json: Decoder[object] = Decoder(object)


def decode_error_body(body: bytes) -> ProviderErrorBody:
    """Decodes an error body of any known shape: {error: {…}}, {error: text}, {message}, {detail}, text."""
    try:
        value = _any_json.decode(body)
    except BadJson:
        return ProviderErrorBody(text=body.decode(errors="replace"))
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and value.get("error"):
        value = value["error"]
    if not isinstance(value, dict):
        return ProviderErrorBody(text=value if isinstance(value, str) else body.decode(errors="replace"))
    code = value.get("code")
    text = value.get("message") or value.get("detail")
    return ProviderErrorBody(
        text=text if isinstance(text, str) else body.decode(errors="replace"),
        code=str(code or ""),
        type=str(value.get("type") or ""),
        status=code if isinstance(code, int) else None,
    )


def classify_error(status: int | None, error: ProviderErrorBody) -> TurnErrorKind:
    """Returns the kind of an error: by code or type, else by a phrase in its text, else by status."""
    codes = {error.code.lower(), error.type.lower()}
    for kind, names in _KIND_BY_CODE.items():
        if codes & names:
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
"""Phrases by which servers without an error code report that a request is too long."""
