from federation.proto.v1 import identity_pb2 as _identity_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VmSignRequest(_message.Message):
    __slots__ = ("vm", "token", "key", "csr", "proof", "version")
    VM_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    vm: str
    token: str
    key: bytes
    csr: bytes
    proof: bytes
    version: str
    def __init__(self, vm: _Optional[str] = ..., token: _Optional[str] = ..., key: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., version: _Optional[str] = ...) -> None: ...

class VmSignReply(_message.Message):
    __slots__ = ("nonce", "reply")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    reply: _identity_pb2.SignReply
    def __init__(self, nonce: _Optional[bytes] = ..., reply: _Optional[_Union[_identity_pb2.SignReply, _Mapping]] = ...) -> None: ...
