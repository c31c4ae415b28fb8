from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerConfig(_message.Message):
    __slots__ = ("models", "listen", "http", "tls_cert", "tls_key", "tls_client_ca", "plaintext", "require_manifest", "reflection", "max_message_bytes", "max_batch_requests", "drain_delay_ms", "drain_grace_ms", "intra_op_threads", "onnxruntime", "admin_listen", "staging", "repository_poll_ms", "allow_integer_division", "admission_cache", "admission_timeout_ms", "admission_memory_bytes", "device", "processes", "batching", "max_batch_rows", "max_delay_ms", "max_queue_rows", "executors", "max_request_ms", "max_connection_age_ms", "max_concurrent_streams", "max_header_bytes", "max_output_bytes", "request_log_ppm", "model_settings", "fast_decode", "generation_slots", "max_kv_bytes", "prefill_chunk_tokens", "onnxruntime_genai")
    class ModelSettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ModelSettings
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ModelSettings, _Mapping]] = ...) -> None: ...
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    TLS_CERT_FIELD_NUMBER: _ClassVar[int]
    TLS_KEY_FIELD_NUMBER: _ClassVar[int]
    TLS_CLIENT_CA_FIELD_NUMBER: _ClassVar[int]
    PLAINTEXT_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    REFLECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    INTRA_OP_THREADS_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_FIELD_NUMBER: _ClassVar[int]
    ADMIN_LISTEN_FIELD_NUMBER: _ClassVar[int]
    STAGING_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_POLL_MS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_INTEGER_DIVISION_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_CACHE_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTION_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_STREAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_HEADER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_LOG_PPM_FIELD_NUMBER: _ClassVar[int]
    MODEL_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    FAST_DECODE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_GENAI_FIELD_NUMBER: _ClassVar[int]
    models: str
    listen: str
    http: str
    tls_cert: str
    tls_key: str
    tls_client_ca: str
    plaintext: bool
    require_manifest: bool
    reflection: bool
    max_message_bytes: int
    max_batch_requests: int
    drain_delay_ms: int
    drain_grace_ms: int
    intra_op_threads: int
    onnxruntime: str
    admin_listen: str
    staging: str
    repository_poll_ms: int
    allow_integer_division: bool
    admission_cache: str
    admission_timeout_ms: int
    admission_memory_bytes: int
    device: str
    processes: int
    batching: str
    max_batch_rows: int
    max_delay_ms: int
    max_queue_rows: int
    executors: int
    max_request_ms: int
    max_connection_age_ms: int
    max_concurrent_streams: int
    max_header_bytes: int
    max_output_bytes: int
    request_log_ppm: int
    model_settings: _containers.MessageMap[str, ModelSettings]
    fast_decode: bool
    generation_slots: int
    max_kv_bytes: int
    prefill_chunk_tokens: int
    onnxruntime_genai: str
    def __init__(self, models: _Optional[str] = ..., listen: _Optional[str] = ..., http: _Optional[str] = ..., tls_cert: _Optional[str] = ..., tls_key: _Optional[str] = ..., tls_client_ca: _Optional[str] = ..., plaintext: _Optional[bool] = ..., require_manifest: _Optional[bool] = ..., reflection: _Optional[bool] = ..., max_message_bytes: _Optional[int] = ..., max_batch_requests: _Optional[int] = ..., drain_delay_ms: _Optional[int] = ..., drain_grace_ms: _Optional[int] = ..., intra_op_threads: _Optional[int] = ..., onnxruntime: _Optional[str] = ..., admin_listen: _Optional[str] = ..., staging: _Optional[str] = ..., repository_poll_ms: _Optional[int] = ..., allow_integer_division: _Optional[bool] = ..., admission_cache: _Optional[str] = ..., admission_timeout_ms: _Optional[int] = ..., admission_memory_bytes: _Optional[int] = ..., device: _Optional[str] = ..., processes: _Optional[int] = ..., batching: _Optional[str] = ..., max_batch_rows: _Optional[int] = ..., max_delay_ms: _Optional[int] = ..., max_queue_rows: _Optional[int] = ..., executors: _Optional[int] = ..., max_request_ms: _Optional[int] = ..., max_connection_age_ms: _Optional[int] = ..., max_concurrent_streams: _Optional[int] = ..., max_header_bytes: _Optional[int] = ..., max_output_bytes: _Optional[int] = ..., request_log_ppm: _Optional[int] = ..., model_settings: _Optional[_Mapping[str, ModelSettings]] = ..., fast_decode: _Optional[bool] = ..., generation_slots: _Optional[int] = ..., max_kv_bytes: _Optional[int] = ..., prefill_chunk_tokens: _Optional[int] = ..., onnxruntime_genai: _Optional[str] = ...) -> None: ...

class ModelSettings(_message.Message):
    __slots__ = ("batching", "max_batch_rows", "max_delay_ms", "max_queue_rows", "executors", "intra_op_threads", "generation_slots", "max_kv_bytes", "prefill_chunk_tokens")
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    INTRA_OP_THREADS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MAX_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    batching: str
    max_batch_rows: int
    max_delay_ms: int
    max_queue_rows: int
    executors: int
    intra_op_threads: int
    generation_slots: int
    max_kv_bytes: int
    prefill_chunk_tokens: int
    def __init__(self, batching: _Optional[str] = ..., max_batch_rows: _Optional[int] = ..., max_delay_ms: _Optional[int] = ..., max_queue_rows: _Optional[int] = ..., executors: _Optional[int] = ..., intra_op_threads: _Optional[int] = ..., generation_slots: _Optional[int] = ..., max_kv_bytes: _Optional[int] = ..., prefill_chunk_tokens: _Optional[int] = ...) -> None: ...
