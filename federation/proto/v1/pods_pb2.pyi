from federation.proto.v1 import identity_pb2 as _identity_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PodSignRequest(_message.Message):
    __slots__ = ("token", "csr", "version")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    token: str
    csr: bytes
    version: str
    def __init__(self, token: _Optional[str] = ..., csr: _Optional[bytes] = ..., version: _Optional[str] = ...) -> None: ...
