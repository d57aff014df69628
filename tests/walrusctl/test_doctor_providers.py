"""Tests of walrusctl doctor: each failure of a provider has its message, and no key is ever shown."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fakes.home import ECHO, Home
from tests.fakes.required_programs import find_program
from tests.fakes.walrusctl_runner import WalrusctlRunner

KEY = "sk-planted-key-1234567890"
HEADER = "planted-header-1234567890"


def provider_toml(url: str, name: str = "x") -> str:
    return f'[providers.{name}]\nkind = "openai"\nbase_url = "{url}"\nmodels = ["{name}"]\n'


def provider_toml_with_key(url: str, name: str = "x") -> str:
    return f'{provider_toml(url, name)}api_key = "{KEY}"\nheaders = {{ "X-Team" = "{HEADER}" }}\n'


class EchoingHttpHandler(BaseHTTPRequestHandler):
    """Answers with the server's status, and quotes the request in its body."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, FakeHttpServer)
        server.requests.append((self.path, self.headers.get("Authorization"), self.headers.get("X-Team")))
        body = f"you sent {self.headers}".encode()
        self.send_response(server.status, f"quoting {self.headers.get('Authorization')}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the standard library's
        pass


class FakeHttpServer(ThreadingHTTPServer):
    status = 200
    url = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoingHttpHandler)
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors: a client that does not trust the certificate closes the connection."""


@contextmanager
def run_server(tls: ssl.SSLContext | None = None) -> Iterator[FakeHttpServer]:
    with FakeHttpServer() as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.url = server.url.replace("http:", "https:")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[FakeHttpServer]:
    with run_server() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def provider_finding(home: Home, toml: str, name: str = "provider x") -> tuple[str, str, str]:
    """Returns the finding of a provider; checks that doctor shows no secret."""
    home.write("walrus.toml", toml)
    result = WalrusctlRunner(home.path).run("doctor", "--json")
    words = WalrusctlRunner(home.path).run("doctor")
    for secret in (KEY, HEADER):
        assert secret not in result.output + words.output
    [found] = [check for check in json.loads(result.stdout)["checks"] if check["name"] == name]
    return found["status"], found["message"], found["hint"]


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        (200, "ok", "answers with the key (200)"),
        (404, "ok", "answers (404: it lists no models)"),
        (401, "error", "refuses the key (401)"),
        (403, "error", "refuses the key (403)"),
        (429, "warning", "reports too many requests (429)"),
        (500, "warning", "reports a server error (500)"),
        (302, "error", "answers with a redirect (302)"),
        (400, "warning", "answers with the key, but with an unexpected status (400)"),
    ],
)
def test_each_status_has_its_message_and_the_key_is_sent_but_not_shown(
    home: Home, server: FakeHttpServer, code: int, status: str, expected: str
) -> None:
    server.status = code
    found = provider_finding(home, provider_toml_with_key(server.url))
    assert found[:2] == (status, f"127.0.0.1:{server.server_port} {expected}")
    assert bool(found[2]) == (status != "ok")
    assert set(server.requests) == {("/v1/models", f"Bearer {KEY}", HEADER)}, "a redirect is not followed"


def test_a_provider_that_requires_a_key_is_reported_if_it_has_none(home: Home, server: FakeHttpServer) -> None:
    assert (
        provider_finding(home, provider_toml(server.url))[1]
        == f"127.0.0.1:{server.server_port} answers without a key (200)"
    )
    server.status = 401
    assert provider_finding(home, provider_toml(server.url)) == (
        "error",
        f"127.0.0.1:{server.server_port} requires a key (401)",
        'give the provider an api_key = "${NAME}"',
    )


def test_a_password_in_a_url_is_refused_and_not_shown(home: Home) -> None:
    status, message, _ = provider_finding(home, provider_toml(f"https://me:{KEY}@127.0.0.1:9/v1"), "configuration")
    assert (status, "must not contain a password" in message) == ("error", True)


def test_a_port_without_a_listener_is_reported(home: Home) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        found = provider_finding(home, provider_toml_with_key(f"http://127.0.0.1:{port}/v1"))
    assert found == ("error", f"nothing listens at 127.0.0.1:{port}", "start that server, or correct base_url")


@pytest.mark.parametrize("host", ["[fe80::1%nowhere]", f"{'x' * 64}.example"])
def test_a_host_name_that_cannot_be_resolved_is_reported(home: Home, host: str) -> None:
    status, message, _ = provider_finding(home, provider_toml_with_key(f"http://{host}/v1"))
    assert (status, message) == ("error", f"the host name {host} cannot be resolved")


def test_a_server_without_tls_is_reported(home: Home, server: FakeHttpServer) -> None:
    status, message, hint = provider_finding(home, provider_toml_with_key(server.url.replace("http:", "https:")))
    assert (status, message) == ("error", f"the TLS connection to 127.0.0.1:{server.server_port} failed")
    assert "http://" in hint


def test_an_unknown_certificate_is_reported_and_a_configured_one_is_trusted(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = find_program("openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key_options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name_options = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", *key_options, *name_options, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with run_server(tls) as server:
        status, message, _ = provider_finding(home, provider_toml_with_key(server.url))
        assert (status, message.partition(":")[0]) == ("error", "the certificate of 127.0.0.1")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert provider_finding(home, provider_toml_with_key(server.url))[0] == "ok"


@pytest.mark.slow
def test_a_server_of_another_protocol_or_without_an_answer_is_reported(home: Home) -> None:
    with socket.socket() as other, socket.socket() as silent:
        for listener in (other, silent):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        other_host, silent_host = (f"127.0.0.1:{listener.getsockname()[1]}" for listener in (other, silent))
        home.write(
            "walrus.toml",
            provider_toml_with_key(f"http://{other_host}/v1", "x")
            + provider_toml_with_key(f"http://{silent_host}/v1", "y"),
        )
        child = WalrusctlRunner(home.path).start_process("doctor", "--json")
        with other.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(f"220 {KEY} speaking SMTP\r\n".encode())
            stdout, _ = child.communicate(timeout=30)
    found = {check["name"]: check for check in json.loads(stdout)["checks"]}
    assert KEY not in stdout.decode()
    assert found["provider x"]["message"] == f"{other_host} does not speak HTTP"
    assert found["provider y"]["message"] == f"{silent_host} did not answer within 5 s"
    assert "database" in found


def test_a_proxy_is_used_but_never_for_loopback(
    home: Home, server: FakeHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:{HEADER}@127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    assert provider_finding(home, provider_toml_with_key("http://far.example/v1"))[:2] == (
        "ok",
        "far.example answers with the key (200)",
    )
    assert {path for path, _, _ in server.requests} == {"http://far.example/v1/models"}
    with run_server() as near:
        assert provider_finding(home, provider_toml_with_key(near.url))[0] == "ok"
        assert {path for path, _, _ in near.requests} == {"/v1/models"}


def test_a_local_model_without_usable_weights_is_reported(home: Home) -> None:
    pytest.importorskip("xllamacpp")
    weights = home.write("model.gguf", "not weights")
    toml = f'[providers.here]\nkind = "local"\npath = "{weights}"\n'
    assert provider_finding(home, toml, "provider here")[:2] == ("error", f"{weights} is not a GGUF file")
    weights.write_bytes(b"GGUF and more")
    assert provider_finding(home, toml, "provider here")[:2] == (
        "ok",
        f"the engine is installed, the weights are {weights}",
    )


def test_a_provider_that_needs_nothing_is_ok_and_no_provider_is_reported(home: Home) -> None:
    assert provider_finding(home, ECHO, "provider echo") == ("ok", "needs nothing", "")
    assert provider_finding(home, "", "providers")[:2] == (
        "warning",
        "none is configured, so agents answer with an error",
    )
