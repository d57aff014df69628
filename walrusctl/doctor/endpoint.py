"""Checks whether a provider's server answers, with one GET; reads and shows nothing of the answer.

As in walrusd, the usual proxy variables apply, but not to loopback. Redirects are not followed: they would send the key
to another server.
"""

import http.client
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from walrusctl.doctor.check import Finding

STEP_TIMEOUT_S = 5.0
"""Seconds for each step: connection, TLS handshake, answer."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_endpoint(base_url: str, headers: Mapping[str, str], *, has_credentials: bool) -> Finding:
    """Sends one request; `has_credentials`: it carries a key or a header of the user's own."""
    parts = urlsplit(base_url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(f"{base_url.rstrip('/')}/models", headers=dict(headers))  # noqa: S310 - http or https, checked when it was loaded
    proxies = {} if parts.hostname in _LOOPBACK else _proxies()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects)
    try:
        with opener.open(request, timeout=STEP_TIMEOUT_S) as response:
            return _judge_status(host, response.status, has_credentials=has_credentials)
    except HTTPError as answer:
        answer.close()
        return _judge_status(host, answer.code, has_credentials=has_credentials)
    except URLError as error:
        reason = error.reason
        return _describe_failure(host, parts.scheme, reason if isinstance(reason, Exception) else error)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return _describe_failure(host, parts.scheme, error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _proxies() -> dict[str, str]:
    found = urllib.request.getproxies()
    return {scheme: found.get(scheme) or found.get("all", "") for scheme in ("http", "https") if found}


def _judge_status(host: str, status: int, *, has_credentials: bool) -> Finding:
    key = "with the key" if has_credentials else "without a key"
    if status in (401, 403) and has_credentials:
        return Finding("error", f"{host} refuses the key ({status})", "check that it is the right key and still valid")
    if status in (401, 403):
        return Finding("error", f"{host} requires a key ({status})", 'give the provider an api_key = "${NAME}"')
    if status == 429:
        hint = "wait, or check the account: its quota may be used up"
        return Finding("warning", f"{host} reports too many requests ({status})", hint)
    if status >= 500:
        return Finding("warning", f"{host} reports a server error ({status})", "try again later")
    if 300 <= status < 400:
        hint = "set base_url to the target of the redirect; walrusd follows none"
        return Finding("error", f"{host} answers with a redirect ({status})", hint)
    if status in (404, 405):  # the server may not have checked the key
        return Finding("ok", f"{host} answers ({status}: it lists no models)")
    if status == 200:
        return Finding("ok", f"{host} answers {key} ({status})")
    hint = "check that base_url and the key belong together"
    return Finding("warning", f"{host} answers {key}, but with an unexpected status ({status})", hint)


def _describe_failure(host: str, scheme: str, error: Exception) -> Finding:
    """Returns the finding for a failed request; it quotes nothing from the server."""
    match error:
        case socket.gaierror() | UnicodeError():  # not found, or not a valid name
            return Finding("error", f"the host name {host} cannot be resolved", "check base_url and the network")
        case ssl.SSLCertVerificationError():
            hint = "check the clock; for your own CA, set SSL_CERT_FILE to its certificate"
            return Finding("error", f"the certificate of {host} is not trusted: {error.verify_message}", hint)
        case ssl.SSLError():
            return Finding(
                "error",
                f"the TLS connection to {host} failed",
                "check whether base_url should begin with http://",
            )
        case TimeoutError():
            hint = "check the network, firewalls and proxies"
            return Finding("error", f"{host} did not answer within {STEP_TIMEOUT_S:g} s", hint)
        case ConnectionRefusedError():
            return Finding("error", f"nothing listens at {host}", "start that server, or correct base_url")
        case http.client.HTTPException() | ConnectionError():
            other = "https" if scheme == "http" else "http"
            hint = f"check whether base_url should begin with {other}:// or have another port"
            return Finding("error", f"{host} does not speak HTTP", hint)
        case _:
            reason = getattr(error, "strerror", None) or type(error).__name__
            return Finding("error", f"{host} cannot be reached: {reason}", "check the network and proxies")
