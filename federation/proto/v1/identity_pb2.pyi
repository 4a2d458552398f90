from federation.proto.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignRequest(_message.Message):
    __slots__ = ("namespace", "account", "csr")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    account: str
    csr: bytes
    def __init__(self, namespace: _Optional[str] = ..., account: _Optional[str] = ..., csr: _Optional[bytes] = ...) -> None: ...

class SignReply(_message.Message):
    __slots__ = ("chain", "bundle", "agent_address", "error_code", "error_detail", "federation", "cluster", "agent_addresses", "enrolment_addresses")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    AGENT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_DETAIL_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    AGENT_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    chain: _containers.RepeatedScalarFieldContainer[bytes]
    bundle: _records_pb2.Bundle
    agent_address: str
    error_code: str
    error_detail: str
    federation: str
    cluster: str
    agent_addresses: _containers.RepeatedScalarFieldContainer[str]
    enrolment_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, chain: _Optional[_Iterable[bytes]] = ..., bundle: _Optional[_Union[_records_pb2.Bundle, _Mapping]] = ..., agent_address: _Optional[str] = ..., error_code: _Optional[str] = ..., error_detail: _Optional[str] = ..., federation: _Optional[str] = ..., cluster: _Optional[str] = ..., agent_addresses: _Optional[_Iterable[str]] = ..., enrolment_addresses: _Optional[_Iterable[str]] = ...) -> None: ...
