# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from concord_proto.serverconfig.v1 import server_config_pb2
from concord_server.config import (
    Address,
    Batching,
    Config,
    ConfigError,
    Generation,
    ModelSettings,
    config_file,
    parse,
    reread,
    usage,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def parsed(tmp_path: Path, *arguments: str) -> Config:
    config = parse(["--models", str(tmp_path), *arguments])
    assert isinstance(config, Config)
    return config


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_field_is_a_flag_and_every_flag_has_a_help() -> None:
    text = usage()
    for field in server_config_pb2.ServerConfig.DESCRIPTOR.fields:
        if field.name == "model_settings":
            continue  # in a file only
        assert f"--{field.name.replace('_', '-')} " in text, field.name


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert parsed(tmp_path) == Config(
        models=tmp_path,
        listen=Address("127.0.0.1", 50051),
        http=Address("127.0.0.1", 9090),
        certificates=None,
        require_manifest=False,
        reflection=True,
        max_message_bytes=104857600,
        max_batch_requests=10000,
        drain_delay_seconds=0,
        drain_grace_seconds=30,
        intra_op_threads=1,
        onnxruntime=None,
        onnxruntime_genai=None,
        admin_listen=None,
        admin_reflection=True,
        staging=None,
        repository_poll_seconds=1,
        allow_integer_division=False,
        admission_cache=Path("/cache/concord"),
        admission_timeout_seconds=60,
        admission_memory_bytes=16 << 30,
        device="cpu",
        processes=1,
        batching=Batching("auto", 64, 0, 1024, None),
        generation=Generation(8, 1 << 30, 512, 0),
        model_settings={},
        max_request_seconds=300,
        max_connection_age_seconds=1800,
        max_concurrent_streams=1024,
        max_header_bytes=65536,
        max_output_bytes=104857600,
        request_log_ppm=0,
    )


def test_flags_of_administration_and_admission(tmp_path: Path) -> None:
    flags = "--admin-listen [::1]:0 --repository-poll-ms 0 --allow-integer-division --admission-cache off".split()
    flags += ["--admission-timeout-ms=1500", "--admission-memory-bytes=268435456", "--staging", str(tmp_path)]
    config = parsed(tmp_path, *flags, "--reflection=false")
    assert config.admin_listen == Address("::1", 0)
    assert config.admin_reflection is False
    assert config.staging == tmp_path
    assert config.repository_poll_seconds == 0
    assert config.allow_integer_division is True
    assert config.admission_cache is None
    assert (config.admission_timeout_seconds, config.admission_memory_bytes) == (1.5, 268435456)
    assert parsed(tmp_path, "--admin-listen=off", "--admission-cache", "x").admission_cache == Path("x")


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parsed(tmp_path).admission_cache == Path("/home/somebody/.cache/concord")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert parsed(tmp_path).admission_cache is None


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--admin-listen=0.0.0.0:1", 'admin_listen: expected a loopback address, got "0.0.0.0:1"'),
        ("--admin-listen=:1", 'admin_listen: expected a loopback address, got ":1"'),
        ("--admin-listen=x", 'admin_listen: expected HOST:PORT, got "x"'),
        ("--staging=/none", 'staging: expected a directory, got "/none", which is none'),
        ("--repository-poll-ms=-1", "repository_poll_ms: expected 0 to 2147483647, got -1"),
        ("--admission-cache=", "admission_cache: expected a directory or off, got nothing"),
        ("--admission-timeout-ms=0", "admission_timeout_ms: expected 1 to 2147483647, got 0"),
        (
            "--admission-memory-bytes=268435455",
            "admission_memory_bytes: expected 268435456 to 9223372036854775807, got 268435455",
        ),
    ],
)
def test_bad_administration_and_admission(tmp_path: Path, flag: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(tmp_path, flag)
    assert str(caught.value) == message


def test_flags(tmp_path: Path) -> None:
    config = parsed(
        tmp_path,
        "--listen=[::1]:0",
        "--http",
        "off",
        "--require-manifest",
        "--reflection=false",
        "--max-message-bytes",
        "1024",
        "--drain-grace-ms=0",
        "--drain-delay-ms",
        "250",
        "--intra-op-threads",
        "2",
    )
    assert (str(config.listen), config.http) == ("[::1]:0", None)
    assert (config.require_manifest, config.reflection, config.max_message_bytes) == (True, False, 1024)
    assert (config.drain_grace_seconds, config.drain_delay_seconds, config.intra_op_threads) == (0, 0.25, 2)


def test_flags_of_the_engine(tmp_path: Path) -> None:
    flags = (
        "--device cuda:3 --processes=64 --batching inline --max-batch-rows 1024 --max-delay-ms=1000 --max-queue-rows 1"
    )
    flags += " --executors=256 --max-request-ms 9 --max-connection-age-ms 0 --max-concurrent-streams 2"
    flags += " --max-header-bytes 4096 --max-output-bytes 1024 --request-log-ppm 1000000"
    flags += " --fast-decode=false"  # of the Go server only
    flags += " --generation-slots 64 --max-kv-bytes=1048576 --prefill-chunk-tokens=8192 --onnxruntime-genai genai.so"
    config = parsed(tmp_path, *flags.split())
    assert (config.device, config.processes) == ("cuda:3", 64)
    assert config.batching == Batching("inline", 1024, 1, 1, 256)
    assert (config.max_request_seconds, config.max_connection_age_seconds) == (0.009, 0)
    assert (config.max_concurrent_streams, config.max_header_bytes) == (2, 4096)
    assert (config.max_output_bytes, config.request_log_ppm) == (1024, 1000000)
    assert config.generation == Generation(64, 1048576, 8192, 0)
    assert config.onnxruntime_genai == Path("genai.so")


def test_settings_of_models(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("""
batching: direct
model_settings:
  wine: {batching: auto, max_batch_rows: 8, maxQueueRows: 16}
  gone: {executors: 3, max_delay_ms: 5, intra_op_threads: 4}
  chat: {generation_slots: 2, max_kv_bytes: 5000000000, prefillChunkTokens: 7}
  12: null
""")
    config = parsed(tmp_path, "--max-batch-rows=8", "--intra-op-threads=2", "--config", str(file))
    server = Batching("direct", 8)
    for model_id, want in {
        "other": ModelSettings(server, 2, Generation(threads=2)),
        "12": ModelSettings(server, 2, Generation(threads=2)),
        "wine": ModelSettings(
            Batching("auto", 8, 0, 16, own_policy=True, own_max_batch_rows=True), 2, Generation(threads=2)
        ),
        "gone": ModelSettings(Batching("direct", 8, 0.005, 1024, 3), 4, Generation(threads=4)),
        "chat": ModelSettings(server, 2, Generation(2, 5_000_000_000, 7, 2)),
    }.items():
        assert config.settings_of(model_id) == want
        assert config.batching_of(model_id) == want.batching


def test_texts_instead_of_a_server() -> None:
    assert parse(["--help"]) == parse(["-h"]) == "help"
    assert parse(["--models", "x", "--version"]) == "version"


FILES = {
    "snake.yaml": "models: {models}\nmax_batch_requests: 7\nplaintext: false\nhttp: off\n",
    "camel.json": '{{"models": "{models}", "maxBatchRequests": "7", "http": "off"}}',
    "tabs.yaml": 'models: "{models}"\nmaxBatchRequests: 7.0\nhttp: "off"\nlisten: null\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_flags_over_it(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text(FILES[name].format(models=tmp_path))
    config = parse(["--config", str(file)])
    assert isinstance(config, Config)
    assert (config.models, config.max_batch_requests, config.http) == (tmp_path, 7, None)
    config = parse(["--max-batch-requests", "8", "--config", str(file)])
    assert isinstance(config, Config)
    assert config.max_batch_requests == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_settings: {wine: {max_batch_rows: 0}}",
            "model_settings.wine.max_batch_rows: expected 1 to 1024, got 0",
        ),
        ("model_settings: {wine: {batching: false}}", "model_settings.wine.batching: expected a text, got false"),
        (
            "model_settings: {wine: {batching: none}}",
            'model_settings.wine.batching: expected auto, inline, direct or adaptive, got "none"',
        ),
        (
            "model_settings: {wine: {executors: many}}",
            'model_settings.wine.executors: expected an integer, got "many"',
        ),
        ("model_settings: {wine: {z: 1, surprise: 1}}", 'model_settings.wine: "surprise": there is no such field'),
        (
            "model_settings: {wine: {max_delay_ms: 1, maxDelayMs: 1}}",
            "model_settings.wine.max_delay_ms: expected once, got maxDelayMs as well",
        ),
        (
            "model_settings: {chat: {max_kv_bytes: 1}}",
            "model_settings.chat.max_kv_bytes: expected 1048576 to 9223372036854775807, got 1",
        ),
        (
            "model_settings: {chat: {generation_slots: 0}}",
            "model_settings.chat.generation_slots: expected 1 to 64, got 0",
        ),
        ("model_settings: {wine: 1}", "model_settings.wine: expected fields and their values, got 1"),
        ("model_settings: [wine]", 'model_settings: expected model ids and their settings, got ["wine"]'),
        ("model_settings: {../x: {}}", 'model_settings: expected a model id, got "../x"'),
        ("model_settings: {a: {}}\nmodelSettings: {}", "model_settings: expected once, got modelSettings as well"),
        ("surprise: 1", '"surprise": there is no such field'),
        (
            "max_batch_requests: 1\nmaxBatchRequests: 2",
            "max_batch_requests: expected once, got maxBatchRequests as well",
        ),
        ("listen: a\nlisten: b", 'expected YAML or JSON: "listen" comes twice'),
        ("- a", "expected fields and their values"),
        ("", "expected fields and their values"),
        ("{", "expected YAML or JSON: "),
        ("listen: 1", "listen: expected a text, got 1"),
        ("plaintext: yes", 'plaintext: expected true or false, got "yes"'),
        ("max_batch_requests: many", 'max_batch_requests: expected an integer, got "many"'),
        ("max_batch_requests: 1.5", 'max_batch_requests: expected an integer, got "1.5"'),
        ("max_batch_requests: [1]", 'max_batch_requests: expected an integer, got "[1]"'),
        ("models: !!python/object/apply:os.getcwd []", "expected YAML or JSON: "),
        ("[" * 5000, "expected YAML or JSON: "),
        ("a" * ((1 << 20) + 1), "expected a file of at most 1048576 bytes that can be read"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    got = refusal("--models", str(tmp_path), "--config", str(file))
    assert got.removeprefix(f'config "{file}": ').startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--surprise"], "unknown flag: --surprise"),
        (["--max_batch_requests", "1"], "unknown flag: --max_batch_requests"),
        (["models"], 'expected flags only, got "models"'),
        (["-models", "x"], 'expected flags only, got "-models"'),
        (["--models"], "flag needs an argument: --models"),
        ([], "models: expected a directory, got nothing"),
        (["--models", "/nonexistent"], 'models: expected a directory, got "/nonexistent", which is none'),
        (["--config", "/nonexistent"], 'config "/nonexistent": expected a file that can be read, got none'),
        (["--plaintext=maybe"], 'plaintext: expected true or false, got "maybe"'),
        (["--intra-op-threads", "two"], 'intra_op_threads: expected an integer, got "two"'),
        (["--intra-op-threads", "9" * 30], 'intra_op_threads: expected an integer, got "' + "9" * 30 + '"'),
        (["--intra-op-threads", "3000000000"], "intra_op_threads: expected an integer of 32 bits, got 3000000000"),
    ],
)
def test_flags_that_are_refused(arguments: list[str], message: str) -> None:
    assert refusal(*arguments) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--intra-op-threads", "0"], "intra_op_threads: expected 1 to 2147483647, got 0"),
        (["--device=gpu"], 'device: expected cpu or cuda:N, got "gpu"'),
        (["--device=cuda:01"], 'device: expected cpu or cuda:N, got "cuda:01"'),
        (["--processes=65"], "processes: expected 1 to 64, got 65"),
        (["--batching=fast"], 'batching: expected auto, inline, direct or adaptive, got "fast"'),
        (["--max-batch-rows=1025"], "max_batch_rows: expected 1 to 1024, got 1025"),
        (["--max-delay-ms=1001"], "max_delay_ms: expected 0 to 1000, got 1001"),
        (["--max-queue-rows=0"], "max_queue_rows: expected 1 to 2147483647, got 0"),
        (["--executors=257"], "executors: expected 1 to 256, got 257"),
        (["--max-request-ms=0"], "max_request_ms: expected 1 to 2147483647, got 0"),
        (["--max-connection-age-ms=-1"], "max_connection_age_ms: expected 0 to 2147483647, got -1"),
        (["--max-concurrent-streams=0"], "max_concurrent_streams: expected 1 to 2147483647, got 0"),
        (["--max-header-bytes=4095"], "max_header_bytes: expected 4096 to 2147483647, got 4095"),
        (["--max-output-bytes=1023"], "max_output_bytes: expected 1024 to 9223372036854775807, got 1023"),
        (["--generation-slots=65"], "generation_slots: expected 1 to 64, got 65"),
        (["--max-kv-bytes=1048575"], "max_kv_bytes: expected 1048576 to 9223372036854775807, got 1048575"),
        (["--prefill-chunk-tokens=0"], "prefill_chunk_tokens: expected 1 to 8192, got 0"),
        (["--request-log-ppm=1000001"], "request_log_ppm: expected 0 to 1000000, got 1000001"),
        (["--max-message-bytes", "1023"], "max_message_bytes: expected 1024 to 2147483647, got 1023"),
        (["--max-message-bytes", "2147483648"], "max_message_bytes: expected 1024 to 2147483647, got 2147483648"),
        (["--max-batch-requests", "0"], "max_batch_requests: expected 1 to 2147483647, got 0"),
        (["--drain-delay-ms", "-1"], "drain_delay_ms: expected 0 to 2147483647, got -1"),
        (["--drain-grace-ms", "-1"], "drain_grace_ms: expected 0 to 2147483647, got -1"),
        (["--listen", "50051"], 'listen: expected HOST:PORT, got "50051"'),
        (["--listen", "127.0.0.1:65536"], 'listen: expected HOST:PORT, got "127.0.0.1:65536"'),
        (["--listen", "127.0.0.1:080"], 'listen: expected HOST:PORT, got "127.0.0.1:080"'),
        (["--listen", "::1:80"], 'listen: expected HOST:PORT, got "::1:80"'),
        (["--listen", "a b:80"], 'listen: expected HOST:PORT, got "a b:80"'),
        (["--http", "on"], 'http: expected HOST:PORT, got "on"'),
        (["--tls-cert", "x"], "tls_cert: expected tls_key with it, got nothing"),
        (["--tls-key", "x"], "tls_key: expected tls_cert with it, got nothing"),
        (["--tls-client-ca", "x"], "tls_client_ca: expected tls_cert and tls_key with it, got neither"),
        (["--tls-cert", "x", "--tls-key", "y", "--plaintext"], "plaintext: expected no tls_cert with it, got one"),
        (["--tls-cert", "/none", "--tls-key", "y"], 'tls_cert: expected a file that can be read, got "/none"'),
    ],
)
def test_values_that_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert refusal("--models", str(tmp_path), *arguments) == message


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0", "example.org:1", "10.0.0.1:1", "128.0.0.1:1"])
def test_plaintext_is_for_loopback_or_by_flag(tmp_path: Path, address: str) -> None:
    message = refusal("--models", str(tmp_path), "--listen", address)
    assert message.startswith("listen: expected a loopback address where there are no certificates, got ")
    assert "make certs" in message
    config = parsed(tmp_path, "--listen", address, "--plaintext")
    assert config.certificates is None
    assert not config.reflection
    assert parsed(tmp_path, "--listen", address, "--plaintext", "--reflection").reflection


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.8.7:1", "[::1]:0", "localhost:0"])
def test_loopback_needs_no_flag(tmp_path: Path, address: str) -> None:
    config = parsed(tmp_path, "--listen", address)
    assert config.listen.loopback
    assert str(config.listen) == address


@pytest.fixture
def pems(tmp_path: Path) -> Callable[[str], str]:
    authority = trustme.CA()
    one, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    files = {
        "chain": b"".join(pem.bytes() for pem in one.cert_chain_pems),
        "key": one.private_key_pem.bytes(),
        "otherkey": other.private_key_pem.bytes(),
        "ca": authority.cert_pem.bytes(),
        "text": b"hello",
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "brokenkey": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return lambda name: str(tmp_path / name)


def test_certificates(tmp_path: Path, pems: Callable[[str], str]) -> None:
    arguments = ["--tls-cert", pems("chain"), "--tls-key", pems("key"), "--listen", "0.0.0.0:0"]
    config = parsed(tmp_path, *arguments)
    assert config.certificates is not None
    assert config.certificates.client_authorities is None
    config = parsed(tmp_path, *arguments, "--tls-client-ca", pems("ca"))
    assert config.certificates is not None
    assert config.certificates.client_authorities == Path(pems("ca")).read_bytes()


@pytest.mark.parametrize(
    ("cert", "key", "authorities", "message"),
    [
        ("text", "key", None, "tls_cert: expected PEM with a CERTIFICATE"),
        ("key", "key", None, "tls_cert: expected PEM with a CERTIFICATE"),
        ("broken", "key", None, "tls_cert: expected a certificate that can be parsed"),
        ("chain", "chain", None, "tls_key: expected PEM with a PRIVATE KEY"),
        ("chain", "otherkey", None, "tls_key: expected the private key of tls_cert's certificate: key values mismatch"),
        ("chain", "brokenkey", None, "tls_key: expected the private key of tls_cert's certificate"),
        ("chain", "key", "text", "tls_client_ca: expected PEM with a CERTIFICATE"),
        ("chain", "key", "broken", "tls_client_ca: expected a certificate that can be parsed"),
        ("chain", "key", "absent", "tls_client_ca: expected a file that can be read"),
    ],
)
def test_certificates_that_are_refused(
    tmp_path: Path, pems: Callable[[str], str], cert: str, key: str, authorities: str | None, message: str
) -> None:
    arguments = ["--models", str(tmp_path), "--tls-cert", pems(cert), "--tls-key", pems(key)]
    if authorities:
        arguments += ["--tls-client-ca", pems(authorities)]
    assert refusal(*arguments).startswith(message)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any"
    file.write_text(text)
    assert refusal("--config", str(file))


def test_reread(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    arguments = ["--models", str(tmp_path), "--config", str(file), "--max-queue-rows=9"]
    file.write_text("max_batch_requests: 3\nmax_queue_rows: 5\n")
    running = parse(arguments)
    assert isinstance(running, Config)
    assert config_file(arguments) == file
    assert config_file(arguments[:2]) is None
    same = reread(arguments, running)
    assert (same.applied, same.restart, same.config) == ([], [], running)
    file.write_text(
        "max_batch_requests: 4\nmax_queue_rows: 6\nlisten: localhost:1\nmax_message_bytes: 4096\n"
        "generation_slots: 3\nmodel_settings: {m: {batching: inline}}\n"
    )
    change = reread(arguments, running)
    assert change.applied == ["max_batch_requests", "model_settings"]
    assert change.restart == ["listen", "max_message_bytes", "generation_slots"]
    now = change.config
    assert (now.max_batch_requests, now.batching.max_queue_rows, now.batching_of("m").policy) == (4, 9, "inline")
    assert (now.listen, now.max_message_bytes) == (running.listen, running.max_message_bytes)
    assert now.max_output_bytes == running.max_output_bytes
    file.write_text("listen: localhost:1\n")  # a field that is taken away has its default again
    change = reread(arguments, now)
    assert (change.config.max_batch_requests, change.config.model_settings, change.restart) == (10000, {}, ["listen"])
    for text, message in (
        ("max_batch_requests: 0", "max_batch_requests: expected 1 to 2147483647, got 0"),
        ("listen: nowhere", 'listen: expected HOST:PORT, got "nowhere"'),
        ("surprise: 1", '"surprise": there is no such field'),
        ("", "expected fields and their values"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            reread(arguments, now)
        assert str(caught.value).endswith(message)
