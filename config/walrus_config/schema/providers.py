"""The tables [providers.NAME]: the services that run the models."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from msgspec import Meta, field
from msgspec.structs import replace

from walrus_config.diagnostics import Location
from walrus_config.paths import expand
from walrus_config.schema.section import NotYet, Positive, ResolveContext, Section
from walrus_config.secrets import Secret, expand_variables, is_private, read_secret_file

OPENAI_URL = "https://api.openai.com/v1"
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REMOTE_KEYS = ("base_url", "api_key", "api_key_file", "headers")
_UNUSED_KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("path",),
    "local": _REMOTE_KEYS,
    "scripted": _REMOTE_KEYS,
    "echo": (*_REMOTE_KEYS, "path"),
}
"""Keys that a kind of provider does not read.

They are refused, because ignoring one would be misleading.
"""


class ProviderSettings(Section, frozen=True, kw_only=True):
    unsupported_keys = ("rate_limit",)

    kind: Annotated[Literal["openai", "local", "scripted", "echo"], NotYet(("anthropic",))]
    base_url: str = ""
    """The URL of an openai provider; OPENAI_URL if the file sets none."""
    api_key: Secret | None = None
    """The API key. After loading, `${NAME}` is replaced, and the content of `api_key_file` is here."""
    api_key_file: str = ""
    """A file with the key, or credential:NAME; absolute after loading."""
    models: tuple[str, ...] = ()
    headers: Mapping[str, Secret] = field(default_factory=dict)
    timeout_s: Positive = 600.0
    """Maximum seconds of one exchange, without retries."""
    idle_timeout_s: Positive = 60.0
    """Maximum seconds without data from a stream."""
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    path: str = ""
    """The weights (.gguf) of a local model, or the script of a scripted one; absolute after loading."""

    def resolve(self, at: Location, context: ResolveContext) -> Self:
        if not _PROVIDER_NAME.fullmatch(str(at.path[-1])):
            rule = "use letters, digits, -, _ and ., beginning with a letter or digit"
            at.add_error("not a valid provider name", rule)
        for key in _UNUSED_KEYS[self.kind]:
            if getattr(self, key):
                at.key(key).add_error(f'kind = "{self.kind}" does not use it', "remove it")
        for index, model in enumerate(self.models):
            if not model.strip() or model in self.models[:index]:
                at.key("models", index).add_error("listed twice" if model.strip() else "is empty")
        if self.kind == "openai":
            return self._resolve_remote(at, context)
        if self.path:
            path = expand(self.path, context.environ, base=context.paths.home)
            if not os.path.isfile(path):
                at.key("path").add_error(f"there is no file {path}")
            return replace(self, path=path)
        if self.kind == "scripted":
            at.key("path").add_error("missing", "set it to the file with the scripted answers")
        return self

    def _resolve_remote(self, at: Location, context: ResolveContext) -> Self:
        environ, toml = context.environ, context.paths.toml
        base_url = self.base_url or OPENAI_URL
        _check_url(base_url, at.key("base_url"))
        headers = {}
        for name, value in self.headers.items():
            header = at.key("headers", name)
            if not _HEADER_NAME.fullmatch(name):
                header.add_error("not a valid header name")
            headers[name] = expand_variables(value, environ, header)
        key, file = self.api_key, self.api_key_file
        if key is not None:
            if "${" not in key.reveal() and not is_private(toml):
                at.key("api_key").add_warning(f"others may read {toml}", f'chmod 600 {toml}, or write "${{NAME}}"')
            if file:
                at.key("api_key_file").add_error("api_key is set too", "keep one of the two")
            key = expand_variables(key, environ, at.key("api_key"))
        elif file:
            file, key = read_secret_file(file, environ, context.paths.home, at.key("api_key_file"))
        elif base_url == OPENAI_URL:
            message = f"no api_key is set, so {OPENAI_URL} will refuse requests"
            at.add_warning(message, 'add api_key = "${OPENAI_API_KEY}"')
        return replace(self, base_url=base_url, headers=headers, api_key=key, api_key_file=file)


def _check_url(url: str, at: Location) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, a port that is not a number
        usable = False
    if not usable or re.search(r"\s", url):
        at.add_error("not an http or https URL", f'for example "{OPENAI_URL}"')
    elif "@" in parts.netloc:
        at.add_error("the URL must not contain a password", "use api_key or headers")
    elif parts.query or parts.fragment:
        at.add_error("the URL must not contain ? or #", "paths are appended to it")
