from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ServerConfig(_message.Message):
    __slots__ = ("models", "listen", "http", "tls_cert", "tls_key", "tls_client_ca", "plaintext", "require_manifest", "reflection", "max_message_bytes", "max_batch_requests", "drain_delay_ms", "drain_grace_ms", "intra_op_threads", "onnxruntime", "admin_listen", "staging", "repository_poll_ms", "allow_integer_division", "admission_cache", "admission_timeout_ms", "admission_memory_bytes")
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
    def __init__(self, models: _Optional[str] = ..., listen: _Optional[str] = ..., http: _Optional[str] = ..., tls_cert: _Optional[str] = ..., tls_key: _Optional[str] = ..., tls_client_ca: _Optional[str] = ..., plaintext: _Optional[bool] = ..., require_manifest: _Optional[bool] = ..., reflection: _Optional[bool] = ..., max_message_bytes: _Optional[int] = ..., max_batch_requests: _Optional[int] = ..., drain_delay_ms: _Optional[int] = ..., drain_grace_ms: _Optional[int] = ..., intra_op_threads: _Optional[int] = ..., onnxruntime: _Optional[str] = ..., admin_listen: _Optional[str] = ..., staging: _Optional[str] = ..., repository_poll_ms: _Optional[int] = ..., allow_integer_division: _Optional[bool] = ..., admission_cache: _Optional[str] = ..., admission_timeout_ms: _Optional[int] = ..., admission_memory_bytes: _Optional[int] = ...) -> None: ...
