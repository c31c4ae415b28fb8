# SPDX-License-Identifier: Apache-2.0
"""The runner speaks TLS, with and without a certificate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner
from concord_conformance.__main__ import main
from concord_conformance.client import Client, Target
from concord_conformance.judge import step_problems
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from fake_server import FakeServer
from google.protobuf import json_format

CASES = """
profile: core
level: LEVEL_MUST
cases:
  - id: core.good
    description: It answers.
    steps:
      - call: {predict: {model_id: identity, features: {x: {float_value: 2}}}}
        expect: {predict: {predictions: {y: 2}}}
"""


@dataclass(frozen=True)
class Files:
    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    client = authority.issue_cert("client.test")
    made = Files(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
    authority.cert_pem.write_to_path(str(made.ca))
    client.cert_chain_pems[0].write_to_path(str(made.certificate))
    client.private_key_pem.write_to_path(str(made.key))
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "core.yaml").write_text(CASES, encoding="utf-8")
    return made


def credentials(authority: trustme.CA, *, mutual: bool) -> grpc.ServerCredentials:
    certificate = authority.issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    roots = authority.cert_pem.bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], roots, mutual)


@pytest.mark.parametrize("mutual", [False, True])
def test_a_run_over_tls(authority: trustme.CA, files: Files, tmp_path: Path, mutual: bool) -> None:
    with FakeServer(credentials(authority, mutual=mutual)) as server:
        own = ["--cert", str(files.certificate), "--key", str(files.key)] if mutual else []
        done = CliRunner().invoke(
            main,
            [
                *("--target", server.address, "--ca", str(files.ca), *own),
                *("--cases", str(tmp_path / "cases"), "--report", str(tmp_path / "r")),
            ],
        )
    assert done.exit_code == 0, done.output
    report = json_format.Parse((tmp_path / "r" / "report.json").read_text(encoding="utf-8"), report_pb2.Report())
    assert report.transport == (report_pb2.TRANSPORT_MTLS if mutual else report_pb2.TRANSPORT_TLS)


def test_bytes_on_the_wire_are_counted_over_tls_too(authority: trustme.CA, files: Files) -> None:
    step = json_format.ParseDict(
        {
            "call": {"predict": {"model_id": "identity", "features": {"x": {"float_value": 1}}}},
            "expect": {"predict": {"predictions": {"y": 1}}, "max_received_wire_bytes": 1},
        },
        suite_pb2.Step(),
    )
    with FakeServer(credentials(authority, mutual=False)) as server:
        client = Client(Target(server.address, files.ca.read_bytes()))
        try:
            (problem,) = step_problems(step, client.perform(step), client.alone)
        finally:
            client.close()
    assert "expected at most 1" in problem
