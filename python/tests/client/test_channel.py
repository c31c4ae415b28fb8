# SPDX-License-Identifier: Apache-2.0
"""How a client connects: plaintext or TLS, tokens, compression, and which options contradict each other."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from concord_client import AsyncClient, Client, Health, UnavailableError
from concord_proto.inference.v1 import inference_service_pb2

if TYPE_CHECKING:
    from tests.client.conftest import Connect, FakeServer, Start

LIMIT = 20.0


class Certificates:
    """An authority, a server's certificate for localhost and 127.0.0.1, and a client's, as files."""

    def __init__(self, folder: Path, *server_names: str) -> None:
        self.authority = trustme.CA()
        server, client = self.authority.issue_cert(*server_names), self.authority.issue_cert("someone@example.com")
        self.server_key = server.private_key_pem.bytes()
        self.server_chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "client.pem", folder / "client.key"
        self.ca.write_bytes(self.authority.cert_pem.bytes())
        self.cert.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
        self.key.write_bytes(client.private_key_pem.bytes())

    def credentials(self, clients: bool = False) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self.server_key, self.server_chain)],
            root_certificates=self.ca.read_bytes() if clients else None,
            require_client_auth=clients,
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"), "localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("strangers"), "inference.example.com")


def test_tls_with_an_authority(start: Start, connect: Connect, certificates: Certificates) -> None:
    server = start(certificates.credentials())
    assert connect(server.address, ca=certificates.ca).check() is Health.SERVING
    assert connect(server.address.replace("127.0.0.1", "localhost"), ca=str(certificates.ca)).check() is Health.SERVING


def test_tls_with_the_roots_of_this_machine(
    start: Start, connect: Connect, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    server = start(certificates.credentials())
    with pytest.raises(UnavailableError):
        connect(server.address, plaintext=False, retry=False).check()
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificates.ca))
    assert connect(server.address, plaintext=False).check() is Health.SERVING


def test_an_unknown_authority_is_refused(
    start: Start, connect: Connect, certificates: Certificates, strangers: Certificates
) -> None:
    server = start(certificates.credentials())
    with pytest.raises(UnavailableError):
        connect(server.address, ca=strangers.ca, retry=False).check()
    assert server.seen == []


def test_a_certificate_for_another_name(start: Start, connect: Connect, strangers: Certificates) -> None:
    server = start(strangers.credentials())
    with pytest.raises(UnavailableError):
        connect(server.address, ca=strangers.ca, retry=False).check()
    client = connect(server.address, ca=strangers.ca, server_name="inference.example.com")
    assert client.check() is Health.SERVING


def test_a_client_certificate(start: Start, connect: Connect, certificates: Certificates) -> None:
    server = start(certificates.credentials(clients=True))
    client = connect(server.address, ca=certificates.ca, cert=certificates.cert, key=certificates.key)
    assert client.check() is Health.SERVING
    with pytest.raises(UnavailableError):
        connect(server.address, ca=certificates.ca, retry=False).check()


def test_plaintext_does_not_reach_a_tls_port(start: Start, connect: Connect, certificates: Certificates) -> None:
    server = start(certificates.credentials())
    with pytest.raises(UnavailableError):
        connect(server.address, retry=False).check()


@pytest.mark.parametrize("token", ["s3cret", lambda: "s3cret"])
def test_a_token_goes_with_every_call(start: Start, connect: Connect, certificates: Certificates, token: Any) -> None:
    for server, options in [(start(certificates.credentials()), {"ca": certificates.ca}), (start(), {})]:
        server.serve("m", server.version("1", x="FLOAT"))
        client = connect(server.address, token=token, **options)
        client.predict("m", {"x": 1})
        client.predict_batch("m", [{"x": 1}])
        client.models()
        client.check()
        assert len(server.seen) == 5
        assert {call.metadata.get("authorization") for call in server.seen} == {"Bearer s3cret"}


def test_a_token_is_fetched_for_each_call(server: FakeServer, connect: Connect) -> None:
    tokens = iter(["one", "two"])
    client = connect(server.address, token=lambda: next(tokens))
    client.check()
    client.check()
    assert [call.metadata["authorization"] for call in server.seen] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "target",
    ["example.com:1", "10.0.0.1:1", "0.0.0.0:1", "[::]:1", "dns:///example.com:1", "ipv4:127.0.0.1:1,10.0.0.1:1"],
)  # fmt: skip
@pytest.mark.parametrize("token", ["s3cret", lambda: "s3cret"])
def test_a_token_never_leaves_in_plaintext(kind: type[Client] | type[AsyncClient], target: str, token: Any) -> None:
    """There is no client that could send it: also where plaintext itself was asked for."""
    with pytest.raises(ValueError, match="token: it is never sent in plaintext to another machine") as caught:
        kind(target, plaintext=True, token=token)
    assert "s3cret" not in str(caught.value)


def test_another_machine_means_tls(connect: Connect) -> None:
    """0.0.0.0 is no loopback address, yet leads to this machine: what a client says there can be looked at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT)
        heard: list[bytes] = []

        def listen() -> None:
            connection, _ = listening.accept()
            with connection:
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        client = connect(f"0.0.0.0:{listening.getsockname()[1]}", token="s3cret", retry=False)
        with pytest.raises(UnavailableError):
            client.check()
        thread.join(LIMIT)
    assert heard
    assert heard[0][0] == 0x16  # a TLS handshake
    assert b"s3cret" not in heard[0]


def test_plaintext_elsewhere_when_asked_for(server: FakeServer, connect: Connect) -> None:
    port = server.address.rpartition(":")[2]
    assert connect(f"0.0.0.0:{port}", plaintext=True).check() is Health.SERVING


def test_loopback_takes_no_proxy(server: FakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert connect(server.address, token="s3cret").check() is Health.SERVING


class Meter:
    """Passes bytes on to a server and counts them in each direction."""

    def __init__(self, address: str) -> None:
        self.sent = self.received = 0
        host, _, port = address.rpartition(":")
        self._server = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        caller, _ = self._listening.accept()
        server = socket.create_connection(self._server)
        back = threading.Thread(target=self._pass, args=(server, caller, "received"), daemon=True)
        back.start()
        self._pass(caller, server, "sent")
        back.join(LIMIT)

    def _pass(self, source: socket.socket, target: socket.socket, count: str) -> None:
        with source, target:
            try:
                while data := source.recv(1 << 16):
                    setattr(self, count, getattr(self, count) + len(data))
                    target.sendall(data)
            except OSError:
                pass  # the other direction has closed both

    def close(self) -> None:
        self._listening.close()


@pytest.mark.parametrize(("gzip", "small"), [(True, True), (False, False)])
def test_gzip(start: Start, connect: Connect, gzip: bool, small: bool) -> None:
    server = start(compress=gzip)
    text = "concord " * 50_000

    def echo(request: Any, context: Any) -> Any:
        return inference_service_pb2.PredictResponse(model_version="1", outputs={"x": request.features["x"]})

    server.serve("m", server.version("1", x="STRING"))
    server.predict = echo
    meter = Meter(server.address)
    try:
        assert connect(meter.address, gzip=gzip).predict("m", {"x": text}).outputs == {"x": text}
    finally:
        meter.close()
    for count in (meter.sent, meter.received):
        assert (count < len(text) / 10) is small


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plaintext": True, "server_name": "x"}, "plaintext: expected no ca, cert, key or server_name"),
        ({"cert": "x"}, "cert and key: expected both or none"),
        ({"key": "x"}, "cert and key: expected both or none"),
        ({"max_message_bytes": 0}, "max_message_bytes: expected 1 to 2147483647, got 0"),
        ({"max_message_bytes": 2**31}, "max_message_bytes: expected 1 to 2147483647"),
        ({"token": ""}, "token: expected letters"),
        ({"token": "s3cret\n"}, "a line break, perhaps"),
        ({"token": "s3cret token"}, "token: expected letters"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=message) as caught:
            kind("127.0.0.1:50051", **options)
        assert "s3cret" not in str(caught.value)


def test_a_bad_token_from_a_function_is_not_sent(server: FakeServer, connect: Connect) -> None:
    with pytest.raises(ValueError, match="token: expected letters"):
        connect(server.address, token=lambda: "s3cret\r\n").check()
    assert server.seen == []


def test_files_that_are_none(certificates: Certificates, strangers: Certificates, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    address = "127.0.0.1:50051"
    with pytest.raises(ValueError, match="ca: expected certificates in PEM"):
        Client(address, ca=rubbish)
    with pytest.raises(ValueError, match="ca: expected certificates in PEM"):
        Client(address, ca=certificates.key)
    with pytest.raises(ValueError, match="cert and key: expected a certificate and its key"):
        Client(address, cert=certificates.cert, key=strangers.key)
    with pytest.raises(FileNotFoundError):
        Client(address, ca=tmp_path / "absent.pem")


def test_what_goes_to_grpc() -> None:
    """Keepalive and limits show only after minutes or gigabytes; here it is only seen that they are passed on."""
    with Client("127.0.0.1:50051") as client:
        options = dict(client._settings.options)
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == 104_857_600
    [method_config] = json.loads(options["grpc.service_config"])["methodConfig"]
    assert method_config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_the_retry_policy_is_one() -> None:
    """The same in both clients and in what the documentation tells the makers of others."""
    root = Path(__file__).resolve().parents[3]
    go = (root / "go" / "client" / "options.go").read_text().partition("const serviceConfig = `")[2].partition("`")[0]
    documented = (root / "docs" / "clients.md").read_text().partition("```json\n")[2].partition("```")[0]
    with Client("127.0.0.1:50051") as client:
        own = dict(client._settings.options)["grpc.service_config"]
    assert json.loads(own) == json.loads(go) == json.loads(documented)
