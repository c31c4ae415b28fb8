# SPDX-License-Identifier: Apache-2.0
"""One version that generates text: what a request of it says, and the engine that answers it."""

from __future__ import annotations

from collections.abc import Mapping

from concord_proto.inference.v1 import inference_service_pb2

from concord_server.generate.decoder import Decoder
from concord_server.generate.engine import Engine
from concord_server.generate.generation import Asked, Generation
from concord_server.generate.prompt import read_prompt
from concord_server.generate.sampling import Picker, Sampling
from concord_server.generate.stop import StopTexts
from concord_server.generate.tokenizer import Tokenizer
from concord_server.model.model import execution_failed
from concord_server.model.session import Call

__all__ = ["Generator"]

FeatureValue = inference_service_pb2.FeatureValue

DEFAULT_TOKENS = 256
"""Most tokens where a request says nothing."""


class Generator:
    """A text generator of one version."""

    def __init__(
        self, model_id: str, version: str, tokenizer: Tokenizer, decoder: Decoder, *, chunk_tokens: int
    ) -> None:
        """It owns tokenizer and decoder. `chunk_tokens` is the most of a prompt in one run."""
        self._name = (model_id, version)
        self._tokenizer = tokenizer
        self.engine = Engine(
            model_id,
            version,
            tokenizer,
            decoder,
            chunk_tokens=chunk_tokens,
            failed=lambda error: execution_failed(model_id, version, str(error)),
        )
        self.slots = decoder.slots
        """Most generations at once."""
        self.context = decoder.context
        """Most tokens of a prompt and its text together."""
        self.cache_bytes = decoder.cache_bytes

    def ask(
        self, features: Mapping[str, FeatureValue], config: inference_service_pb2.InferenceConfig, request_id: str
    ) -> Asked:
        """What a request asks for; `request_id` is the one that it gave. The config has passed check_config.

        It may take as long as a prompt is long. Raises Fault.
        """
        prompt = read_prompt(features).tokens(self._tokenizer, self.context)
        sampling = Sampling.of(config, request_id)
        return Asked(
            prompt=prompt,
            limit=min(config.max_tokens or DEFAULT_TOKENS, self.context - len(prompt)),
            seed=sampling.seed,
            picker=Picker(sampling),
            stops=StopTexts(config.stop),
            text=self._tokenizer.stream(),
        )

    def begin(self, asked: Asked, call: Call, arrived: float) -> Generation:
        """Begins a generation for a request that arrived then, by time.perf_counter(). Raises Fault."""
        return self.engine.begin(asked, call, arrived)

    def close(self) -> None:
        """Ends what runs and frees all; waits for nothing."""
        self.engine.close()
