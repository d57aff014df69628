"""Does the server of a provider answer? One GET with the standard library; nothing of the answer is read or shown.

As in the daemon, the usual proxy variables are obeyed, but loopback never goes through a proxy, and no redirection is
followed: it would carry the key elsewhere.
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

from walrusctl.doctor.check import Check

STEP_TIMEOUT_S = 5.0
"""For each step: connecting, the greeting of TLS, the answer."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_endpoint(name: str, base_url: str, headers: Mapping[str, str], *, has_credentials: bool) -> Check:
    """`keyed`: whether a key or a header of the user's own goes with it."""
    parts = urlsplit(base_url)
    at = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(f"{base_url.rstrip('/')}/models", headers=dict(headers))  # noqa: S310 - http or https: load has checked it
    proxies = {} if parts.hostname in _LOOPBACK else _proxies()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects)
    try:
        with opener.open(request, timeout=STEP_TIMEOUT_S) as response:
            return _judge_status(name, at, response.status, has_credentials=has_credentials)
    except HTTPError as answer:
        answer.close()
        return _judge_status(name, at, answer.code, has_credentials=has_credentials)
    except URLError as error:
        reason = error.reason
        return _describe_failure(name, at, parts.scheme, reason if isinstance(reason, Exception) else error)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return _describe_failure(name, at, parts.scheme, error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _proxies() -> dict[str, str]:
    found = urllib.request.getproxies()
    return {scheme: found.get(scheme) or found.get("all", "") for scheme in ("http", "https") if found}


def _judge_status(name: str, host: str, status: int, *, has_credentials: bool) -> Check:
    key = "with the key" if has_credentials else "without a key"
    if status in (401, 403) and has_credentials:
        return Check(
            name, "broken", f"{host} refuses the key ({status})", "see whether it is the right one, and in force"
        )
    if status in (401, 403):
        return Check(name, "broken", f"{host} wants a key ({status})", 'give the provider an api_key = "${NAME}"')
    if status == 429:
        hint = "wait, or look at the account: its quota may be used up"
        return Check(name, "warning", f"{host} answers that it was asked too much ({status})", hint)
    if status >= 500:
        return Check(name, "warning", f"{host} answers that it has trouble ({status})", "it may pass: try again later")
    if 300 <= status < 400:
        hint = "set base_url to where it points; walrusd follows none"
        return Check(name, "broken", f"{host} answers with a redirection ({status})", hint)
    if status in (404, 405):  # before it had looked at a key, perhaps
        return Check(name, "fine", f"{host} answers ({status}: it lists no models)")
    if status == 200:
        return Check(name, "fine", f"{host} answers {key} ({status})")
    hint = "see whether base_url and the key belong together"
    return Check(name, "warning", f"{host} answers {key}, but not as it should ({status})", hint)


def _describe_failure(name: str, host: str, scheme: str, error: Exception) -> Check:
    """The sentence for a failed try; none of them quotes what a server has said."""
    match error:
        case socket.gaierror() | UnicodeError():  # not found, or no name at all
            return Check(
                name, "broken", f"the name of {host} cannot be found", "is base_url right, and the network up?"
            )
        case ssl.SSLCertVerificationError():
            hint = "is the clock right? A CA of your own: SSL_CERT_FILE names its certificate"
            return Check(name, "broken", f"the certificate of {host} is not trusted: {error.verify_message}", hint)
        case ssl.SSLError():
            return Check(
                name, "broken", f"{host} does not speak TLS as it should", "should base_url begin with http://?"
            )
        case TimeoutError():
            hint = "is the network up, and does a firewall or proxy stand between?"
            return Check(name, "broken", f"{host} did not answer within {STEP_TIMEOUT_S:g} s", hint)
        case ConnectionRefusedError():
            return Check(name, "broken", f"nothing listens at {host}", "start that server, or mend base_url")
        case http.client.HTTPException() | ConnectionError():
            other = "https" if scheme == "http" else "http"
            hint = f"should base_url begin with {other}://, or name another port?"
            return Check(name, "broken", f"{host} does not speak HTTP", hint)
        case _:
            said = getattr(error, "strerror", None) or type(error).__name__
            return Check(
                name, "broken", f"{host} cannot be reached: {said}", "is the network up? Is a proxy in the way?"
            )
