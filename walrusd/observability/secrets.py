"""Collects the secrets of a configuration: the texts that a Redaction replaces."""

import re
from base64 import b64decode

from msgspec.structs import replace

from walrus_config.schema import Config, ProviderSettings, Secret

SECRET_HEADER = re.compile("auth|key|token|secret|cookie|password", re.IGNORECASE)
"""Names of headers that hold a secret.

Other headers name a program or a title, and hiding such a word everywhere would spoil the output of tools.
"""
MIN_FIELD_LENGTH = 8
"""Minimum characters of a secret field in a header, such as id in "theme=dark; id=…"; shorter fields are words."""


def collect_secrets(config: Config) -> frozenset[str]:
    """Returns all secrets: API keys, values from the environment, and headers with secret names.

    A key that is the name of a provider is none: servers that need no key are often given their name ("ollama").
    """
    secrets: set[str] = set()
    for provider in config.providers.values():
        named = {name: header for name, header in provider.headers.items() if SECRET_HEADER.search(name)}
        secrets |= provider_secrets(replace(provider, headers=named))
        secrets.update(part for header in provider.headers.values() for part in header.parts)
    return frozenset(secrets - config.providers.keys())


def provider_secrets(provider: ProviderSettings) -> frozenset[str]:
    """Returns all that is sent to one provider and may be secret: its errors may quote any of it."""
    userinfo = provider.base_url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    secrets = {userinfo, userinfo.partition(":")[2]}
    if provider.api_key is not None:
        secrets.update((provider.api_key.reveal(), *provider.api_key.parts))
    for header in provider.headers.values():
        secrets |= _header_secrets(header)
    return frozenset(filter(None, secrets))


def _header_secrets(header: Secret) -> set[str]:
    """Returns the value, its words after the scheme ("Bearer") and its fields; each may be echoed alone."""
    value = header.reveal()
    scheme, *words = value.split() or [""]
    fields = re.split(r'[\s;,:="]+', value)[1:]
    secrets = {value, *header.parts, *words, *(field for field in fields if len(field) >= MIN_FIELD_LENGTH)}
    if scheme.lower() == "basic" and words:
        try:
            user_and_password = b64decode(f"{words[0]}==").decode()  # some programs omit the padding
        except ValueError:
            return secrets
        secrets.update((user_and_password, user_and_password.partition(":")[2]))
    return secrets
