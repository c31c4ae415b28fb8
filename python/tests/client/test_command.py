# SPDX-License-Identifier: Apache-2.0
"""The command `concord` in this process, against a fake server."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import concord_command
import grpc
import pytest
import trustme
from click.testing import CliRunner, Result
from concord_client import FeatureValue
from concord_client.command import bulk
from concord_client.command.program import program
from concord_proto.inference.v1 import inference_service_pb2, model_pb2, tensor_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Start

PredictResponse = inference_service_pb2.PredictResponse
LIMIT = 20.0
VERSIONS = "The model has versions 1, 2; labels stable (1)\n"

Concord = Callable[..., Result]


@pytest.fixture
def fake(start: Start) -> FakeServer:
    """A server with a model "echo" that answers with the text it is given, in two versions, and a few others."""
    server = start(page_size=100)
    first = server.version("1", x="FLOAT", n="INT64", ok="BOOL", text="STRING", v="FLOAT[2]")
    first.description = "Says what it hears.\nTwice."
    first.verified = True
    first.features[0].description = "a number"
    for feature in first.features[1:]:
        feature.required = False
    first.features[1].default_value.int64_value = 7
    first.predictions.add(name="p", description="the number")
    first.outputs.add(name="label", type=model_pb2.FEATURE_TYPE_STRING)
    first.outputs.add(name="v", type=model_pb2.FEATURE_TYPE_FLOAT, shape=[2])
    second = model_pb2.ModelVersion()
    second.CopyFrom(first)
    second.version = "2"
    server.serve("echo", first, second, stable="1")
    server.serve("mean-radius", server.version("1", **{"mean radius": "FLOAT", "a=b": "STRING"}))
    broken = model_pb2.ModelVersion(version="1", state=model_pb2.MODEL_STATE_FAILED)
    broken.error.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    broken.error.message = "refused \x1b[2J"
    broken.error.details.append(AnyMessage(type_url="type.googleapis.com/of.a.later.Time", value=b"x"))
    server.models["broken"] = model_pb2.Model(model_id="broken", versions=[broken])
    server.models["none"] = model_pb2.Model(model_id="none")

    def echo(asked: Any, context: Any) -> Any:
        request = inference_service_pb2.PredictRequest()
        request.CopyFrom(asked)  # looking for a key puts it in
        x = request.features["x"].float_value
        if x < 0:
            about = {"model_id": "echo", "model_version": "2"}
            raise server.failure(grpc.StatusCode.INTERNAL, "MODEL_EXECUTION_FAILED", "no roots\x1b[2J", **about)
        answer = PredictResponse(request_id=request.request_id, model_version=request.model_version or "2")
        answer.predictions["p"] = x
        answer.outputs["label"].string_value = request.features["text"].string_value
        answer.outputs["v"].float_array.values.extend(request.features["v"].float_array.values or [0.1, 2])
        return answer

    server.predict = echo
    return server


@pytest.fixture
def concord(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Concord:
    """Runs the command against the fake server."""
    monkeypatch.setenv("CONCORD_SERVER", fake.address)

    def run(*arguments: str | Path, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(program, [str(each) for each in arguments], input=stdin, prog_name="concord")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def rows_of(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def objects_of(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- models, describe, health ----------------------------------------------------------------------------------------


def test_models(concord: Concord) -> None:
    result = concord("models")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "MODEL        KIND     DEFAULT  VERSIONS  LABELS    DESCRIPTION\n"
        "broken                         1 failed\n"
        "echo         tabular  2        1, 2      stable=1  Says what it hears.\n"
        "mean-radius  tabular  1        1\n"
        "none\n"
    )


def test_models_as_json(concord: Concord) -> None:
    models = json.loads(concord("models", "--output", "json").stdout)
    assert [model["model_id"] for model in models] == ["broken", "echo", "mean-radius", "none"]
    assert models[0]["versions"][0]["error"]["message"] == "refused \x1b[2J"
    assert models[1]["labels"] == {"stable": "1"}


def test_no_models(concord: Concord, fake: FakeServer) -> None:
    fake.models.clear()
    result = concord("models")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "The server has no models.\n")
    assert concord("predict", "m").stderr.endswith("The server has no models.\n")


def test_describe(concord: Concord) -> None:
    assert concord("describe", "echo").stdout == (
        "echo version 2 (default)\n"
        "  Says what it hears.\n"
        "  Twice.\n"
        "  tabular, verified on this server, each row is computed by itself\n"
        "\n"
        "FEATURE  TYPE       DEFAULT  DESCRIPTION\n"
        "x        float               a number\n"
        "n        int64      7\n"
        "ok       bool       null\n"
        "text     string     null\n"
        "v        float [2]  null\n"
        "\n"
        "PREDICTION  DESCRIPTION\n"
        "p           the number\n"
        "\n"
        "OUTPUT  TYPE\n"
        "label   string\n"
        "v       float [2]\n"
        "\n"
        "concord predict echo x=NUMBER\n"
        "\n"
        "Other versions: 1\n"
    )
    assert concord("describe", "echo", "--version", "stable").stdout.startswith("echo version 1 (label stable)\n")
    document = json.loads(concord("describe", "echo", "--version", "1", "--output", "json").stdout)
    assert [version["version"] for version in document["versions"]] == ["1"]
    assert document["versions"][0]["features"][1]["default_value"] == {"int64_value": "7"}


def test_describe_an_axis_with_a_limit(concord: Concord, fake: FakeServer) -> None:
    version = fake.version("1", ids="INT64[-1,2]")
    version.kind = model_pb2.MODEL_KIND_TENSOR
    version.features[0].max_length = 512
    version.input_tensors.add(name="ids", dtype=tensor_pb2.DATA_TYPE_INT64, shape=[-1, -1, 2], max_shape=[0, 512, 0])
    version.input_tensors.add(name="open", dtype=tensor_pb2.DATA_TYPE_INT64, shape=[-1, 3])
    fake.serve("limited", version)
    shown = concord("describe", "limited").stdout
    assert "int64 [at most 512, 2]" in shown
    assert "[-1, <=512, 2]" in shown
    assert "[-1, 3]" in shown


def test_describe_what_does_not_answer(concord: Concord) -> None:
    assert concord("describe", "broken").stdout == "broken version 1 (failed)\n  refused \\x1b[2J\n"
    assert concord("describe", "none").stdout == "none\nNo versions.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "ecko"], 'did you mean "echo"?\nThe server has broken, echo, mean-radius, none\n'),
        (["predict", "zzz"], "The server has broken, echo, mean-radius, none\n"),
        (["describe", "echo", "--version", "stabel"], f'no label "stabel"; did you mean "stable"?\n{VERSIONS}'),
        (["describe", "echo", "--version", "3"], f"has no version 3\n{VERSIONS}"),
    ],
)
def test_what_is_not_there(concord: Concord, arguments: list[str], message: str) -> None:
    result = concord(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith(message)


def test_health(concord: Concord) -> None:
    result = concord("health")
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")
    result = concord("health", "models/m", "--output", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"service": "models/m", "status": "NOT_SERVING"})
    result = concord("health", "echo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("A model's name is models/echo\n")
    assert 'did you mean "models/echo"?' in concord("health", "models/ecco").stderr


# --- one row ---------------------------------------------------------------------------------------------------------


def test_a_prediction(concord: Concord, fake: FakeServer) -> None:
    result = concord("predict", "echo", "x=0.1", "text=a=b \x1b[2J", "v=[1, 2.5]", "ok=True", "n=9007199254740993")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:6] == [
        "OUTPUT  VALUE",
        "label   a=b \\x1b[2J",
        "v       [1.0, 2.5]",
        "",
        "PREDICTION  VALUE",
        "p           0.1",
    ]
    assert lines[-1].startswith("echo version 2, 0.00 ms (queue 0.00, compute 0.00), request ")
    [request] = fake.requests("Predict")
    assert request.features["n"].int64_value == 2**53 + 1
    assert request.features["ok"].bool_value is True
    assert request.model_version == ""


def test_a_prediction_as_json(concord: Concord) -> None:
    result = concord("predict", "echo", "x=nan", "--output", "json", "--request-id", "r1", "--version", "stable")
    assert json.loads(result.stdout) == {
        "model_id": "echo",
        "model_version": "stable",
        "request_id": "r1",
        "predictions": {"p": "NaN"},
        "outputs": {"label": "", "v": [0.1, 2.0]},
        "latency_ms": 0.0,
        "timing": {"queue_ms": 0.0, "compute_ms": 0.0, "batch_rows": 0},
    }


def test_a_prediction_as_csv(concord: Concord) -> None:
    result = concord("predict", "echo", "x=1", "text=a,b", "--output", "csv")
    assert (
        result.stdout == 'row,predictions.p,outputs.label,outputs.v,model_version,error\n1,1.0,"a,b","[0.1, 2.0]",2,\n'
    )


def test_an_error_of_a_prediction(concord: Concord) -> None:
    result = concord("predict", "echo", "x=-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: INTERNAL MODEL_EXECUTION_FAILED: no roots\\x1b[2J\n"
    result = concord("predict", "echo", "x=-1", "--output", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": {"code": "INTERNAL", "reason": "MODEL_EXECUTION_FAILED", "message": "no roots\x1b[2J"}
    }


def test_every_wrong_value_is_told(concord: Concord, fake: FakeServer) -> None:
    result = concord("predict", "echo", "x=abc", "n=1.5", "ok=maybe", "v=1", "Text=x", "text", "n=1", "n=2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        'Error: feature "x": expected a number, got "abc"\n'
        '  feature "n": expected an integer, got "1.5"\n'
        '  feature "ok": expected true or false, got "maybe"\n'
        '  feature "v": expected a JSON array such as [1, 2], got "1"\n'
        '  feature "Text": the model has no such feature; did you mean "text"?\n'
        '  expected NAME=VALUE, got "text"\n'
        '  feature "n" is there twice\n'
        "`concord describe echo` shows the model's features.\n"
    )
    assert fake.requests("Predict") == []


def test_names_with_blanks_and_signs(concord: Concord, fake: FakeServer) -> None:
    result = concord("predict", "mean-radius", "mean radius=1", "a=b=c=d")
    assert result.exit_code == 0
    assert fake.sent() == {"mean radius": "float_value", "a=b": "string_value"}
    assert fake.requests("Predict")[0].features["a=b"].string_value == "c=d"
    assert 'did you mean "mean radius"?' in concord("predict", "mean-radius", "mean_radios=1").stderr


def test_what_the_server_finds_wrong_is_listed(concord: Concord, fake: FakeServer) -> None:
    bad = error_details_pb2.BadRequest()
    for name in "xy":
        bad.field_violations.add(field=f'features["{name}"]', description=f'feature "{name}": expected a float')

    def refuse(request: Any, context: Any) -> Any:
        raise fake.failure(
            grpc.StatusCode.INVALID_ARGUMENT, "FEATURE_MISSING", 'feature "x": expected a float (and 1 more)', bad
        )

    fake.predict = refuse
    assert concord("predict", "echo").stderr == (
        'Error: INVALID_ARGUMENT FEATURE_MISSING: feature "x": expected a float (and 1 more)\n'
        '  feature "y": expected a float\n'
        "`concord describe echo` shows the model's features.\n"
    )


def test_a_server_without_a_catalog(start: Start, concord: Concord, fake: FakeServer) -> None:
    fake.catalog_failure = fake.failure(grpc.StatusCode.UNIMPLEMENTED)
    assert concord("predict", "echo", "x=1.5", "text=abc", "n=3", "v=[1, 2]", "ok=true").exit_code == 0
    assert fake.sent() == {
        "x": "float_value", "text": "string_value", "n": "int64_value", "v": "int64_array", "ok": "bool_value",
    }  # fmt: skip
    result = concord("predict", "echo", "--csv", "-", stdin="x\n1.5\n")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: the server does not tell what the model gives: expected --output json\n",
    )
    result = concord("predict", "echo", "--csv", "-", "--output", "json", stdin="x\n1.5\n")
    assert objects_of(result)[0]["predictions"] == {"p": 1.5}


# --- the connection --------------------------------------------------------------------------------------------------


def test_nobody_there(concord: Concord) -> None:
    result = concord("models", "--server", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot reach a server at 127.0.0.1:1 (--server) in plaintext: ")
    assert "refused" in result.stderr
    assert "(--server) over TLS" in concord("models", "--server", "127.0.0.1:1", "--tls").stderr


def test_the_default_server(concord: Concord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONCORD_SERVER")
    monkeypatch.setattr("concord_client.command.connection.Client", _refused)
    result = concord("models")
    assert result.exit_code == 2
    assert "the target is 127.0.0.1:50051" in result.stderr


def _refused(target: str, **options: Any) -> Any:
    raise ValueError(f"the target is {target}")


def test_options_stand_before_or_behind_the_command(concord: Concord, fake: FakeServer) -> None:
    assert concord("--server", "127.0.0.1:1", "health", "--server", fake.address).exit_code == 0
    assert "127.0.0.1:1 (--server)" in concord("--server", "127.0.0.1:1", "health").stderr
    concord("--deadline", "7s", "health")
    assert fake.seen[-1].time_left is not None
    assert 0 < fake.seen[-1].time_left <= 8
    concord("health", "--gzip")
    assert fake.seen[-1].metadata.get("grpc-encoding", "gzip") == "gzip"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--server", "nonsense"], "target: expected HOST:PORT"),
        (["models", "--deadline", "0"], "expected a time such as 30s, 500ms or 2m, got '0'"),
        (["models", "--deadline", "soon"], "expected a time such as"),
        (["models", "--ca", "/nowhere"], "does not exist"),
        (["models", "--plaintext", "--server-name", "x"], "plaintext: expected no ca"),
        (["predict", "echo", "x=1", "--csv", "-"], "expected NAME=VALUE, --json or --csv"),
        (["predict", "echo", "x=1", "--out", "f"], "--out is for --json and --csv"),
        (["predict", "echo", "--csv", "-", "--output", "table"], "--output table is for one row"),
        (["predict", "echo", "--json", "-", "--keep", "x"], "--keep is for --csv"),
        (["predict", "echo", "--csv", "-", "--keep", "x", "--output", "json"], "--keep is for output as CSV"),
        (["predict", "echo", "--csv", "-", "--delimiter", "ab"], "expected one character or tab"),
        (["predict", "\udcff"], "expected UTF-8"),
        (["predict"], "Missing argument 'MODEL'"),
        (["prediction"], "No such command"),
    ],
)
def test_wrong_use(concord: Concord, fake: FakeServer, arguments: list[str], message: str) -> None:
    result = concord(*arguments, stdin="")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())
    assert fake.requests("Predict") == fake.requests("BatchPredict") == []


def test_tls_and_a_token(start: Start, concord: Concord, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()
    server = start(grpc.ssl_server_credentials([(key, chain)]))
    ca, token = tmp_path / "ca.pem", tmp_path / "token"
    authority.cert_pem.write_to_path(str(ca))
    token.write_text("abc.def\n")
    where = ("--server", server.address)
    assert concord("health", *where, "--ca", ca, "--token-file", token).stdout == "SERVING\n"
    assert server.seen[-1].metadata["authorization"] == "Bearer abc.def"
    assert "If the server speaks TLS, pass --ca FILE or --tls." in concord("health", *where).stderr
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    assert "Pass --ca with the authority" in concord("health", *where, "--ca", other).stderr
    token.write_text("two lines\nhere")
    assert concord("health", *where, "--ca", ca, "--token-file", token).exit_code == 2
    assert "If the server speaks plaintext, pass --plaintext." in concord("health", "--tls").stderr


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_csv(concord: Concord, fake: FakeServer, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('id,x,text,v\n1,0.1,"a,b","[1, 2]"\n2,-1,,\n3,abc,,\n4,1\n5,3,last,"[3, 4]"\n')
    result = concord("predict", "echo", "--csv", source, "--keep", "id", "--request-id", "job")
    assert result.exit_code == 1
    names = ["row", "id", "predictions.p", "outputs.label", "outputs.v", "model_version", "error"]
    assert result.stdout.splitlines()[0] == ",".join(names)
    mismatch = 'INVALID_ARGUMENT FEATURE_TYPE_MISMATCH: feature "x": expected a number, got "abc"'
    assert [list(row.values()) for row in rows_of(result)] == [
        ["1", "1", "0.1", "a,b", "[1.0, 2.0]", "2", ""],
        ["2", "2", "", "", "", "", "INTERNAL MODEL_EXECUTION_FAILED: no roots\x1b[2J"],
        ["3", "3", "", "", "", "", mismatch],
        ["4", "4", "", "", "", "", "INVALID_ARGUMENT REQUEST_MALFORMED: expected 4 cells, got 2"],
        ["5", "5", "3.0", "last", "[3.0, 4.0]", "2", ""],
    ]
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "row 2 (line 3): INTERNAL MODEL_EXECUTION_FAILED: no roots\\x1b[2J",
        'row 3 (line 4): INVALID_ARGUMENT FEATURE_TYPE_MISMATCH: feature "x": expected a number, got "abc"',
        "row 4 (line 5): INVALID_ARGUMENT REQUEST_MALFORMED: expected 4 cells, got 2",
    ]
    assert lines[3].startswith("5 rows, 3 failed, ")
    # The version is settled before the first row; row n is named job-n; what cannot be sent is not.
    [batch] = fake.requests("BatchPredict")
    assert [(r.request_id, r.model_version) for r in batch.requests] == [("job-1", "2"), ("job-2", "2"), ("job-5", "2")]


def test_json_lines(concord: Concord) -> None:
    text = '{"x": 1, "text": "é\\u001b"}\n{"y": 1}\n{"x": "NaN"}\n'
    result = concord("predict", "echo", "--json", "-", "--version", "stable", "--quiet", stdin=text)
    assert (result.exit_code, result.stderr) == (1, "")
    got = objects_of(result)
    assert [each["row"] for each in got] == [1, 2, 3]
    assert got[0]["outputs"] == {"label": "é\x1b", "v": [0.1, 2.0]}
    assert (got[0]["model_version"], got[2]["predictions"]) == ("1", {"p": "NaN"})
    assert got[1]["error"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "FEATURE_UNKNOWN",
        "message": 'feature "y": the model has no such feature',
        "violations": [{"field": 'features["y"]', "description": 'feature "y": the model has no such feature'}],
    }


def test_out_and_its_form(concord: Concord, tmp_path: Path) -> None:
    for name, first in (("a.csv", "row,predictions.p"), ("a.jsonl", '{"row": 1, '), ("a.txt", "row,predictions.p")):
        out = tmp_path / name
        result = concord("predict", "echo", "--csv", "-", "--out", out, stdin="x\n1\n")
        assert (result.exit_code, result.stdout) == (0, "")
        assert out.read_text().startswith(first)
    # Nothing is overwritten where nothing can be asked.
    assert concord("predict", "echo", "--csv", "-", "--out", out, stdin="zzz\n1\n").exit_code == 2
    assert out.read_text().startswith("row,")
    assert concord("predict", "echo", "--csv", out, "--out", out, "--ignore-unknown").exit_code == 2
    assert concord("predict", "echo", "--csv", "-", "--out", tmp_path / "no" / "x", stdin="x\n1\n").exit_code == 2


def test_the_files_own_encoding(concord: Concord) -> None:
    result = concord("predict", "echo", "--csv", "-", stdin="\ufeffx,text\r\n1,größe ✓\r\n".encode())
    assert rows_of(result)[0]["outputs.label"] == "größe ✓"
    assert "\r" not in result.stdout


def test_an_empty_file(concord: Concord, fake: FakeServer) -> None:
    result = concord("predict", "echo", "--csv", "-", stdin="x\n")
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert result.stderr.startswith("0 rows")
    assert concord("predict", "echo", "--json", "-", stdin="").stdout == ""
    assert fake.requests("BatchPredict") == []


def test_a_file_for_a_model_that_does_not_answer(concord: Concord) -> None:
    result = concord("predict", "broken", "--csv", "-", stdin="x\n1\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith('Error: no version of model "broken" is ready; it has version 1\n  ')
    assert "refused \\x1b" in result.stderr
    assert "refused" in concord("predict", "broken", "--version", "1", "--csv", "-", stdin="x\n1\n").stderr
    assert concord("predict", "none", "--json", "-", stdin="{}").exit_code == 1


def test_many_failed_rows_are_told_once(concord: Concord) -> None:
    result = concord("predict", "echo", "--csv", "-", stdin="x\n" + "-1\n" * 100)
    assert result.stderr.count("row ") == 20
    assert "more rows failed: the output has their errors\n100 rows, 100 failed, " in result.stderr
    assert len(rows_of(result)) == 100


def test_an_answer_beyond_the_catalog(concord: Concord, fake: FakeServer) -> None:
    fake.predict = lambda request, context: PredictResponse(
        model_version="2", outputs={"new": FeatureValue(int64_value=1)}
    )
    result = concord("predict", "echo", "--csv", "-", stdin="x\n1\n")
    assert result.exit_code == 1
    assert "'new' is not in the catalog" in rows_of(result)[0]["error"]
    assert objects_of(concord("predict", "echo", "--json", "-", stdin='{"x": 1}'))[0]["outputs"] == {"new": 1}


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_file_is_kept(concord: Concord, fake: FakeServer) -> None:
    def slow_ones(request: Any) -> Any:
        # The first chunks wait for later ones: answers come in another order than questions.
        first = request.requests[0].features["x"].float_value
        if first == 0:
            assert later.wait(LIMIT)
        if first >= 20:
            later.set()
        response = inference_service_pb2.BatchPredictResponse()
        for one in request.requests:
            result = response.results.add().response
            result.model_version = "2"
            result.predictions["p"] = one.features["x"].float_value
        return response

    later = threading.Event()
    fake.batch = slow_ones
    text = "x\n" + "".join(f"{i}\n" for i in range(105))
    result = concord("predict", "echo", "--csv", "-", "--chunk", "10", "--in-flight", "3", stdin=text)
    assert result.exit_code == 0
    assert [(row["row"], row["predictions.p"]) for row in rows_of(result)] == [
        (str(i + 1), f"{i}.0") for i in range(105)
    ]
    assert sorted(len(batch.requests) for batch in fake.requests("BatchPredict")) == [5] + [10] * 10


def test_no_more_is_read_than_is_in_flight(fake: FakeServer) -> None:
    from concord_client import Client
    from concord_client.command.rows import Row

    read: list[int] = []

    def rows() -> Iterator[Row]:
        for number in range(1, 1001):
            read.append(number)
            yield Row(number, number, 10, {"x": 1.0})

    with Client(fake.address) as client:
        asked = bulk.Asked("echo", "2", "")
        for chunk in bulk.Bulk(client, asked, chunk_rows=10, in_flight=3).run(rows(), lambda: None):
            assert len(read) <= chunk.rows[-1].number + 2 * 10
    assert len(read) == 1000


def test_a_chunk_that_is_too_large_is_cut(concord: Concord, fake: FakeServer) -> None:
    refused: list[int] = []
    answer = fake.predict

    def at_most_ten(request: Any) -> Any:
        if len(request.requests) > 10:
            refused.append(len(request.requests))
            raise fake.failure(grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE", "at most 10")
        response = inference_service_pb2.BatchPredictResponse()
        for one in request.requests:
            response.results.add().response.CopyFrom(answer(one, None))  # type: ignore[arg-type]
        return response

    fake.batch = at_most_ten
    text = "x\n" + "".join(f"{i}\n" for i in range(400))
    result = concord("predict", "echo", "--csv", "-", "--chunk", "40", "--in-flight", "1", stdin=text)
    assert result.exit_code == 0
    assert [row["predictions.p"] for row in rows_of(result)] == [f"{i}.0" for i in range(400)]
    assert refused == [40, 20]  # learned once


def test_a_row_that_is_too_large_fails_alone(concord: Concord, fake: FakeServer) -> None:
    def no_long_text(request: Any) -> Any:
        if any(len(one.features["text"].string_value) > 100 for one in request.requests):
            raise fake.failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", "too large")
        response = inference_service_pb2.BatchPredictResponse()
        for _ in request.requests:
            response.results.add().response.model_version = "2"
        return response

    fake.batch = no_long_text
    text = "x,text\n" + "".join(f"{i},{'long' * 100 if i == 5 else 'short'}\n" for i in range(10))
    result = concord("predict", "echo", "--csv", "-", stdin=text)
    assert result.exit_code == 1
    errors = [row["error"] for row in rows_of(result)]
    assert [bool(error) for error in errors] == [i == 5 for i in range(10)]
    assert errors[5] == "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE: too large"


def test_a_full_queue_is_waited_for(concord: Concord, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_WAITS", (0.01, 0.01, 0.01))
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.nanos = 1_000_000
    tries: dict[float, int] = {}
    answer = fake.predict

    def full(request: Any, context: Any) -> Any:
        x = request.features["x"].float_value
        tries[x] = tries.get(x, 0) + 1
        if x == 9 or (x % 2 and tries[x] < 3):
            raise fake.failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", retry)
        return answer(request, context)

    fake.predict = full
    result = concord("predict", "echo", "--csv", "-", stdin="x\n" + "".join(f"{i}\n" for i in range(10)))
    # Only the rows that met it are sent again, and not for ever.
    assert tries == {float(i): 4 if i == 9 else 3 if i % 2 else 1 for i in range(10)}
    assert [row["error"] for row in rows_of(result)] == [""] * 9 + ["RESOURCE_EXHAUSTED QUEUE_FULL: full"]


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE])
def test_what_no_row_can_survive_stops(
    concord: Concord, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(bulk, "_WAITS", (0.01,))
    answer = fake.predict

    def until_20(request: Any, context: Any) -> Any:
        if request.features["x"].float_value >= 20:
            raise fake.failure(code, "SERVER_DRAINING", "enough")
        return answer(request, context)

    fake.predict = until_20
    text = "x\n" + "".join(f"{i}\n" for i in range(10_000))
    result = concord("predict", "echo", "--csv", "-", "--chunk", "10", stdin=text)
    assert result.exit_code == 1
    assert f"Error: stopped at row 21: {code.name} SERVER_DRAINING: enough\n" in result.stderr
    assert [row["predictions.p"] for row in rows_of(result)] == [f"{i}.0" for i in range(20)]
    assert len(fake.requests("BatchPredict")) < 50


def test_fail_fast(concord: Concord, fake: FakeServer) -> None:
    text = "x\n" + "".join(f"{-i if i == 25 else i}\n" for i in range(10_000))
    result = concord("predict", "echo", "--csv", "-", "--chunk", "10", "--fail-fast", stdin=text)
    assert result.exit_code == 1
    rows = rows_of(result)
    assert [bool(row["error"]) for row in rows] == [False] * 25 + [True]
    assert "26 rows, 1 failed, " in result.stderr
    assert len(fake.requests("BatchPredict")) < 50


def test_an_array_that_breaks_off_has_answers_until_there(concord: Concord) -> None:
    text = "[" + ",".join(f'{{"x": {i}}}' for i in range(30)) + "\n{"
    result = concord("predict", "echo", "--json", "-", "--chunk", "8", stdin=text)
    assert result.exit_code == 1
    assert [each["row"] for each in objects_of(result)] == list(range(1, 31))
    assert "Error: line 2: the array of rows breaks off" in result.stderr


def test_a_chunk_that_takes_too_long_fails_alone(concord: Concord, fake: FakeServer, release: threading.Event) -> None:
    answer = fake.predict

    def hang(request: Any, context: Any) -> Any:
        if request.features["x"].float_value == 15:
            release.wait(LIMIT)
        return answer(request, context)

    fake.predict = hang
    text = "x\n" + "".join(f"{i}\n" for i in range(30))
    result = concord("predict", "echo", "--csv", "-", "--chunk", "10", "--deadline", "700ms", stdin=text)
    assert result.exit_code == 1
    errors = [row["error"][:17] for row in rows_of(result)]
    assert errors == [""] * 10 + ["DEADLINE_EXCEEDED"] * 10 + [""] * 10


# --- completion ------------------------------------------------------------------------------------------------------


def completed(words: str, shell: str = "zsh") -> list[str]:
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    args = words.split(" ")
    found = kind(program, {}, "concord", "_CONCORD_COMPLETE").get_completions(args[1:-1], args[-1])
    return [item.value for item in found]


@pytest.mark.usefixtures("concord")
def test_completion(fake: FakeServer) -> None:
    assert completed("concord pre") == ["predict"]
    assert completed("concord predict e") == ["echo"]
    assert completed("concord describe ") == ["broken", "echo", "mean-radius", "none"]
    assert completed("concord predict echo ") == ["x=", "n=", "ok=", "text=", "v="]
    assert completed("concord predict echo x=1 t") == ["text="]
    assert completed("concord predict echo x=1 n=2 ok=") == ["ok=true", "ok=false"]
    assert completed("concord predict echo ok=f") == ["ok=false"]
    assert completed("concord predict echo x=") == []
    assert completed("concord predict mean-radius mean") == ["mean radius="]
    assert completed("concord predict echo --version ") == ["1", "2", "stable"]
    assert completed("concord predict broken ") == []
    assert completed("concord health models/e") == ["models/echo"]
    assert completed(f"concord --server {fake.address} predict ec") == ["echo"]


@pytest.mark.usefixtures("concord")
def test_completion_is_silent(fake: FakeServer, capfd: pytest.CaptureFixture[str]) -> None:
    for words in ("--server 127.0.0.1:1 predict e", "--server nonsense predict e"):
        assert completed(f"concord {words}") == []
    fake.catalog_failure = fake.failure(grpc.StatusCode.INTERNAL)
    assert completed("concord predict echo ") == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_completion_scripts(concord: Concord) -> None:
    for shell, word in (("bash", "complete -o nosort -F"), ("zsh", "compdef"), ("fish", "complete --no-files")):
        result = concord("completion", shell)
        assert result.exit_code == 0
        assert word in result.stdout
    assert concord("completion", "tcsh").exit_code == 2


def test_help_and_version(concord: Concord) -> None:
    assert "predict" in concord("--help").stdout
    assert "CONCORD_SERVER" in concord("predict", "-h").stdout
    assert concord("--version").stdout.startswith("concord, version ")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(SystemExit) as caught:
        concord_command.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "concord: rich not installed: pip install 'concord[cli]'\n"
