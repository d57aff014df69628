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

ANSWER_S = 5.0
"""For each step: connecting, the greeting of TLS, the answer."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def try_endpoint(name: str, base_url: str, headers: Mapping[str, str], *, keyed: bool) -> Check:
    """`keyed`: whether a key or a header of the user's own goes with it."""
    parts = urlsplit(base_url)
    at = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(f"{base_url.rstrip('/')}/models", headers=dict(headers))  # noqa: S310 - http or https: load has checked it
    proxies = {} if parts.hostname in _LOOPBACK else _proxies()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _StayHere)
    try:
        with opener.open(request, timeout=ANSWER_S) as response:
            return _judged(name, at, response.status, keyed=keyed)
    except HTTPError as answer:
        answer.close()
        return _judged(name, at, answer.code, keyed=keyed)
    except URLError as error:
        reason = error.reason
        return _unreached(name, at, parts.scheme, reason if isinstance(reason, Exception) else error)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return _unreached(name, at, parts.scheme, error)


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


def _proxies() -> dict[str, str]:
    found = urllib.request.getproxies()
    return {scheme: found.get(scheme) or found.get("all", "") for scheme in ("http", "https") if found}


def _judged(name: str, at: str, status: int, *, keyed: bool) -> Check:
    key = "with the key" if keyed else "without a key"
    if status in (401, 403) and keyed:
        return Check(
            name, "broken", f"{at} refuses the key ({status})", "see whether it is the right one, and in force"
        )
    if status in (401, 403):
        return Check(name, "broken", f"{at} wants a key ({status})", 'give the provider an api_key = "${NAME}"')
    if status == 429:
        hint = "wait, or look at the account: its quota may be used up"
        return Check(name, "warning", f"{at} answers that it was asked too much ({status})", hint)
    if status >= 500:
        return Check(name, "warning", f"{at} answers that it has trouble ({status})", "it may pass: try again later")
    if 300 <= status < 400:
        hint = "set base_url to where it points; walrusd follows none"
        return Check(name, "broken", f"{at} answers with a redirection ({status})", hint)
    if status in (404, 405):  # before it had looked at a key, perhaps
        return Check(name, "fine", f"{at} answers ({status}: it lists no models)")
    if status == 200:
        return Check(name, "fine", f"{at} answers {key} ({status})")
    hint = "see whether base_url and the key belong together"
    return Check(name, "warning", f"{at} answers {key}, but not as it should ({status})", hint)


def _unreached(name: str, at: str, scheme: str, error: Exception) -> Check:
    """The sentence for a failed try; none of them quotes what a server has said."""
    match error:
        case socket.gaierror() | UnicodeError():  # not found, or no name at all
            return Check(name, "broken", f"the name of {at} cannot be found", "is base_url right, and the network up?")
        case ssl.SSLCertVerificationError():
            hint = "is the clock right? A CA of your own: SSL_CERT_FILE names its certificate"
            return Check(name, "broken", f"the certificate of {at} is not trusted: {error.verify_message}", hint)
        case ssl.SSLError():
            return Check(name, "broken", f"{at} does not speak TLS as it should", "should base_url begin with http://?")
        case TimeoutError():
            hint = "is the network up, and does a firewall or proxy stand between?"
            return Check(name, "broken", f"{at} did not answer within {ANSWER_S:g} s", hint)
        case ConnectionRefusedError():
            return Check(name, "broken", f"nothing listens at {at}", "start that server, or mend base_url")
        case http.client.HTTPException() | ConnectionError():
            other = "https" if scheme == "http" else "http"
            hint = f"should base_url begin with {other}://, or name another port?"
            return Check(name, "broken", f"{at} does not speak HTTP", hint)
        case _:
            said = getattr(error, "strerror", None) or type(error).__name__
            return Check(name, "broken", f"{at} cannot be reached: {said}", "is the network up? Is a proxy in the way?")
