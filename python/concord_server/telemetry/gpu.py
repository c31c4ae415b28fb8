# SPDX-License-Identifier: Apache-2.0
"""Memory and utilisation of the GPU that models run on, as its driver tells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from concord_server.telemetry.log import log

__all__ = ["Gpu", "gpu"]

_log = log(__name__)


class Gpu:
    """One GPU. Its methods may be called from any thread."""

    def __init__(self, nvml: ModuleType, handle: Any, device: str) -> None:
        self._nvml = nvml
        self._handle = handle
        self._labels = {"device": device}

    def look(self) -> Sequence[tuple[str, str, float, dict[str, str]]]:
        """Name, description, value and labels of each metric; what the driver does not tell is left out."""
        told = []
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            told += [
                ("inference_gpu_memory_used_bytes", "Memory of the GPU in use, by all processes.", memory.used),
                ("inference_gpu_memory_total_bytes", "Memory of the GPU.", memory.total),
            ]
            busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
            told.append(("inference_gpu_utilization_ratio", "Share of the last moments that the GPU was busy.", busy))
        except self._nvml.NVMLError:
            pass  # a GPU that is shared in slices tells no utilisation
        return [(name, text, float(value), self._labels) for name, text, value in told]


def gpu(device: str) -> Gpu | None:
    """The GPU of a device `cuda:N`; None for every other device, and where nothing tells of it."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdecimal():
        return None
    try:
        import pynvml
    except ImportError:
        _log.warning("no metrics of the GPU: nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
        return Gpu(pynvml, _handle(pynvml, int(number)), device)
    except pynvml.NVMLError as error:
        _log.warning("no metrics of the GPU", cause=str(error))
        return None


def _handle(nvml: ModuleType, number: int) -> Any:
    """The N-th GPU that this process may use, which is not always the driver's N-th."""
    allowed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if number < len(allowed):
        if not allowed[number].isdecimal():
            return nvml.nvmlDeviceGetHandleByUUID(allowed[number])
        number = int(allowed[number])
    return nvml.nvmlDeviceGetHandleByIndex(number)
