# SPDX-License-Identifier: Apache-2.0
"""What is measured: every server, the command that starts it, its request, the points it is measured at."""

from __future__ import annotations

import json
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["LEVELS", "OPEN", "Configuration", "Places", "configurations"]

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
PREDICT = "/inference.v1.InferenceService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"

# Callers of the closed loop; shares of the server's own peak in the open loop.
LEVELS = (1, 16, 64, 256)
OPEN = (0.5, 0.8)


@dataclass(frozen=True)
class Places:
    """Where things lie: what was built for benchmarks, our Go server, our Python packages, ONNX Runtime."""

    built: Path
    go: Path
    python: Path
    library: Path

    @property
    def files(self) -> Path:
        """The bare graphs and the requests."""
        return self.built / "files"

    def environment(self, peer: str) -> Path:
        """The Python of a peer, which may be missing."""
        return self.built / peer / "bin" / "python"


@dataclass(frozen=True)
class Configuration:
    """One server with one model.

    command: "{port}" stands for a free port; the one after it is free as well, and "{port1}".
    levels: callers of the closed loop. open: shares of the peak among them, for the open loop.
    once: the command measures itself and prints the result, instead of serving; "{callers}", "{seconds}" are those.
    """

    server: str
    model: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    protocol: str = "grpc"
    method: str = PREDICT
    form: str = "concord"
    request: str = "concord.bin"
    levels: tuple[int, ...] = (64,)
    open: tuple[float, ...] = ()
    once: bool = False
    folder: Path = PEERS
    needs: Path | None = None

    @property
    def missing(self) -> bool:
        """Whether what it needs could not be installed."""
        return self.needs is not None and not self.needs.exists()


def configurations(places: Places) -> list[Configuration]:
    """All of them, in the order in which a round goes through them."""
    made: list[Configuration] = []
    for model, levels, shares in (
        ("m1", LEVELS, OPEN),
        ("m1x", (1, 64), ()),
        ("m2", (1, 64), (0.8,)),
        ("cnn", (1, 64), ()),
        ("array", (1, 16), ()),
    ):
        made += floors(places, model, levels)
        made += ours(places, model, levels, shares)
        if model != "m1x":
            made += peers(places, model, levels, shares)
    for model in ("m1", "m2", "cnn"):
        made += [go(places, model, LEVELS, policy=policy) for policy in ("auto", "inline", "direct", "adaptive")]
    return made


# Of grpc_echo.py.
WAYS = ("aio", "asyncio", "aio-bytes", "sync", "sync-bytes")


def floors(places: Places, model: str, levels: tuple[int, ...]) -> list[Configuration]:
    """The model without a server, and servers without the model."""
    file = places.files / model
    raw: tuple[str, ...] = (
        f"{places.built}/bin/raw",
        "--expect",
        f"{file}.json",
        "--model",
        f"{file}.onnx",
        "--row",
        f"{file}.request.row",
    )
    raw += ("--library", str(places.library), "--callers", "{callers}", "--seconds", "{seconds}")
    echo = (f"{places.built}/bin/echo", "--expect", f"{file}.json", "--listen", "127.0.0.1:{port}")
    hand = (*echo, "--hand", "--run", f"{file}.onnx", "--library", str(places.library))
    fastapi = places.environment("fastapi")
    made = [
        Configuration("raw-c", model, raw, once=True, levels=(1, 2)),
        Configuration(
            "raw-python",
            model,
            (str(fastapi), "raw.py", "{seconds}"),
            peer(places, model),
            once=True,
            levels=(1,),
            needs=fastapi,
        ),
        Configuration("echo-go", model, echo, levels=levels),
        Configuration("echo-go-hand-run", model, hand, levels=levels),
    ]
    path = {"PYTHONPATH": str(places.python)}
    for way in WAYS if model == "m1" else WAYS[:1] if model == "m1x" else ():
        command = (sys.executable, str(PEERS / "grpc_echo.py"), f"{file}.json", "127.0.0.1:{port}", way)
        at = levels if way == WAYS[0] else (64,)
        made.append(Configuration(f"echo-python-{way}", model, command, path, levels=at, folder=ROOT))
    return made


def go(
    places: Places, model: str, levels: tuple[int, ...], shares: tuple[float, ...] = (), policy: str = ""
) -> Configuration:
    """Our Go server."""
    command: tuple[str, ...] = (
        str(places.go),
        "--models",
        f"{places.built}/packages/{model}",
        "--listen",
        "127.0.0.1:{port}",
    )
    command += ("--http", "127.0.0.1:{port1}", "--onnxruntime", str(places.library))
    if not policy:
        return Configuration("go", model, command, levels=levels, open=shares, folder=ROOT)
    return Configuration(f"go-{policy}", model, (*command, "--batching", policy), levels=levels, folder=ROOT)


def ours(places: Places, model: str, levels: tuple[int, ...], shares: tuple[float, ...]) -> list[Configuration]:
    """Both our servers, the Python server on one process and on as many as there are cores here, two."""
    command: tuple[str, ...] = (sys.executable, "-m", "concord_server", "--models", f"{places.built}/packages/{model}")
    command += ("--listen", "127.0.0.1:{port}", "--http", "127.0.0.1:{port1}")
    path = {"PYTHONPATH": str(places.python)}
    return [
        go(places, model, levels, shares),
        Configuration("python", model, command, path, levels=levels, open=shares, folder=ROOT),
        Configuration("python-x2", model, (*command, "--processes", "2"), path, levels=levels, folder=ROOT),
    ]


def peer(places: Places, model: str) -> dict[str, str]:
    """The environment variables of a peer's process."""
    return {"MODEL": model, "FILES": str(places.files), "PORT": "{port}", "PYTHONPATH": str(PEERS)}


def peers(places: Places, model: str, levels: tuple[int, ...], shares: tuple[float, ...]) -> list[Configuration]:
    """Other people's servers."""
    made = []
    fastapi = places.environment("fastapi")
    for path, kind in (("/predict", "def"), ("/predict_async", "async")):
        for workers in (1, 2):
            command: tuple[str, ...] = (
                str(fastapi),
                "-m",
                "uvicorn",
                "fastapi_app:app",
                "--port",
                "{port}",
                "--workers",
                str(workers),
            )
            command += ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
            made.append(
                Configuration(
                    f"fastapi-{kind}" + ("-x2" if workers == 2 else ""),
                    model,
                    command,
                    peer(places, model),
                    protocol="http",
                    method=path,
                    form="json",
                    request="json",
                    levels=levels,
                    open=shares if workers == 1 else (),
                    needs=fastapi,
                )
            )
    litserve = places.environment("litserve")
    for batch in (1, 64):
        made.append(
            Configuration(
                "litserve" if batch == 1 else "litserve-batch",
                model,
                (str(litserve), "litserve_app.py"),
                {**peer(places, model), "BATCH": str(batch)},
                protocol="http",
                method="/predict",
                form="json",
                request="json",
                levels=levels,
                needs=litserve,
            )
        )
    tensors = {"method": INFER, "form": "v2grpc", "request": "v2.bin"}
    triton = places.environment("triton")
    made.append(
        Configuration(
            "triton",
            model,
            (str(triton), "triton_app.py"),
            # Its Python backend must find the library of the very Python whose modules it loads.
            {**peer(places, model), "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))},
            levels=levels,
            open=shares,
            needs=triton,
            **tensors,  # type: ignore[arg-type]
        )
    )
    mlserver = places.environment("mlserver")
    for name in ("mlserver-grpc", "mlserver-http"):
        http = {"protocol": "http", "method": f"/v2/models/{model}/infer", "form": "v2json", "request": "v2.json"}
        made.append(
            Configuration(
                name,
                model,
                (str(mlserver.with_name("mlserver")), "start", "{folder}"),
                {**peer(places, model), "KIND": name},
                levels=levels,
                needs=mlserver,
                **(tensors if name == "mlserver-grpc" else http),  # type: ignore[arg-type]
            )
        )
    return made


def write_mlserver(folder: Path, configuration: Configuration, port: int) -> None:
    """MLServer reads its settings from files. No workers beside it: with them it is slower on few cores."""
    http = configuration.server == "mlserver-http"
    ports = {"http_port": port if http else port + 1, "grpc_port": port + 1 if http else port, "metrics_port": port + 2}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False, "use_structured_logging": False}
    settings |= {"grpc_max_message_length": 64 << 20}
    (folder / "settings.json").write_text(json.dumps(settings))
    described = {"name": configuration.model, "implementation": "mlserver_model.Model"}
    (folder / "model-settings.json").write_text(json.dumps(described))
