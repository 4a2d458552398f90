from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROTOCOL_UNSPECIFIED: _ClassVar[Protocol]
    TCP: _ClassVar[Protocol]
    UDP: _ClassVar[Protocol]
    SCTP: _ClassVar[Protocol]

class AppProtocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPAQUE: _ClassVar[AppProtocol]
    HTTP: _ClassVar[AppProtocol]
    H2C: _ClassVar[AppProtocol]
    GRPC: _ClassVar[AppProtocol]
PROTOCOL_UNSPECIFIED: Protocol
TCP: Protocol
UDP: Protocol
SCTP: Protocol
OPAQUE: AppProtocol
HTTP: AppProtocol
H2C: AppProtocol
GRPC: AppProtocol

class Port(_message.Message):
    __slots__ = ("name", "port", "protocol", "app", "declared")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    name: str
    port: int
    protocol: Protocol
    app: AppProtocol
    declared: str
    def __init__(self, name: _Optional[str] = ..., port: _Optional[int] = ..., protocol: _Optional[_Union[Protocol, str]] = ..., app: _Optional[_Union[AppProtocol, str]] = ..., declared: _Optional[str] = ...) -> None: ...

class Locality(_message.Message):
    __slots__ = ("region", "zone")
    REGION_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    region: str
    zone: str
    def __init__(self, region: _Optional[str] = ..., zone: _Optional[str] = ...) -> None: ...

class Readiness(_message.Message):
    __slots__ = ("locality", "ready", "weight")
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    locality: Locality
    ready: int
    weight: int
    def __init__(self, locality: _Optional[_Union[Locality, _Mapping]] = ..., ready: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("address", "ready", "terminating", "locality", "hostname", "ports", "identity", "weight")
    class PortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    TERMINATING_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    address: str
    ready: bool
    terminating: bool
    locality: Locality
    hostname: str
    ports: _containers.ScalarMap[int, int]
    identity: str
    weight: int
    def __init__(self, address: _Optional[str] = ..., ready: _Optional[bool] = ..., terminating: _Optional[bool] = ..., locality: _Optional[_Union[Locality, _Mapping]] = ..., hostname: _Optional[str] = ..., ports: _Optional[_Mapping[int, int]] = ..., identity: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("consumer", "ports")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    ports: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, consumer: _Optional[str] = ..., ports: _Optional[_Iterable[int]] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("namespace", "name", "exported_at_ns", "ports", "headless", "session_affinity", "session_affinity_seconds", "internal_traffic_policy", "traffic_distribution", "ip_families", "labels", "annotations", "readiness", "grants", "endpoints")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    HEADLESS_FIELD_NUMBER: _ClassVar[int]
    SESSION_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_AFFINITY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_TRAFFIC_POLICY_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    IP_FAMILIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    exported_at_ns: int
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    headless: bool
    session_affinity: str
    session_affinity_seconds: int
    internal_traffic_policy: str
    traffic_distribution: str
    ip_families: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    readiness: _containers.RepeatedCompositeFieldContainer[Readiness]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., exported_at_ns: _Optional[int] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., headless: _Optional[bool] = ..., session_affinity: _Optional[str] = ..., session_affinity_seconds: _Optional[int] = ..., internal_traffic_policy: _Optional[str] = ..., traffic_distribution: _Optional[str] = ..., ip_families: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., readiness: _Optional[_Iterable[_Union[Readiness, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class Endpoints(_message.Message):
    __slots__ = ("namespace", "name", "network", "endpoints", "grants")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    network: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., network: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("name", "address", "port", "locality", "weight", "draining", "egress")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    EGRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    port: int
    locality: Locality
    weight: int
    draining: bool
    egress: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., locality: _Optional[_Union[Locality, _Mapping]] = ..., weight: _Optional[int] = ..., draining: _Optional[bool] = ..., egress: _Optional[str] = ...) -> None: ...

class Bundle(_message.Message):
    __slots__ = ("trust_domain", "sequence", "roots", "refresh_hint_seconds", "signature")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    REFRESH_HINT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    sequence: int
    roots: _containers.RepeatedScalarFieldContainer[bytes]
    refresh_hint_seconds: int
    signature: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., sequence: _Optional[int] = ..., roots: _Optional[_Iterable[bytes]] = ..., refresh_hint_seconds: _Optional[int] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("name", "trust_domain", "locality", "bundle", "agent_version", "problems", "network", "outbound_only", "pod_ranges")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_ONLY_FIELD_NUMBER: _ClassVar[int]
    POD_RANGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    trust_domain: str
    locality: Locality
    bundle: Bundle
    agent_version: str
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    network: str
    outbound_only: bool
    pod_ranges: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., trust_domain: _Optional[str] = ..., locality: _Optional[_Union[Locality, _Mapping]] = ..., bundle: _Optional[_Union[Bundle, _Mapping]] = ..., agent_version: _Optional[str] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., network: _Optional[str] = ..., outbound_only: _Optional[bool] = ..., pod_ranges: _Optional[_Iterable[str]] = ...) -> None: ...

class Link(_message.Message):
    __slots__ = ("a", "b", "created_ns", "grants")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    a: str
    b: str
    created_ns: int
    grants: _containers.RepeatedCompositeFieldContainer[LinkGrant]
    def __init__(self, a: _Optional[str] = ..., b: _Optional[str] = ..., created_ns: _Optional[int] = ..., grants: _Optional[_Iterable[_Union[LinkGrant, _Mapping]]] = ...) -> None: ...

class LinkGrant(_message.Message):
    __slots__ = ("origin", "consumer", "namespace", "service", "ports")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    origin: str
    consumer: str
    namespace: str
    service: str
    ports: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, origin: _Optional[str] = ..., consumer: _Optional[str] = ..., namespace: _Optional[str] = ..., service: _Optional[str] = ..., ports: _Optional[_Iterable[int]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("code", "subject", "detail", "since_ns")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    code: str
    subject: str
    detail: str
    since_ns: int
    def __init__(self, code: _Optional[str] = ..., subject: _Optional[str] = ..., detail: _Optional[str] = ..., since_ns: _Optional[int] = ...) -> None: ...

class Import(_message.Message):
    __slots__ = ("namespace", "name", "ips", "ip_families", "headless", "ports", "session_affinity", "session_affinity_seconds", "traffic_distribution", "labels", "annotations", "backends", "conflicts", "internal_traffic_policy", "gateway_ports", "aliases")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class GatewayPortsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    IP_FAMILIES_FIELD_NUMBER: _ClassVar[int]
    HEADLESS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_AFFINITY_FIELD_NUMBER: _ClassVar[int]
    SESSION_AFFINITY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_DISTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_TRAFFIC_POLICY_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_PORTS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    ips: _containers.RepeatedScalarFieldContainer[str]
    ip_families: _containers.RepeatedScalarFieldContainer[str]
    headless: bool
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    session_affinity: str
    session_affinity_seconds: int
    traffic_distribution: str
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    backends: _containers.RepeatedCompositeFieldContainer[Backend]
    conflicts: _containers.RepeatedCompositeFieldContainer[Conflict]
    internal_traffic_policy: str
    gateway_ports: _containers.ScalarMap[int, int]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., ips: _Optional[_Iterable[str]] = ..., ip_families: _Optional[_Iterable[str]] = ..., headless: _Optional[bool] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., session_affinity: _Optional[str] = ..., session_affinity_seconds: _Optional[int] = ..., traffic_distribution: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., backends: _Optional[_Iterable[_Union[Backend, _Mapping]]] = ..., conflicts: _Optional[_Iterable[_Union[Conflict, _Mapping]]] = ..., internal_traffic_policy: _Optional[str] = ..., gateway_ports: _Optional[_Mapping[int, int]] = ..., aliases: _Optional[_Iterable[str]] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("cluster", "local", "stale", "ports", "readiness", "endpoints")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    READINESS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    local: bool
    stale: bool
    ports: _containers.RepeatedScalarFieldContainer[int]
    readiness: _containers.RepeatedCompositeFieldContainer[Readiness]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, cluster: _Optional[str] = ..., local: _Optional[bool] = ..., stale: _Optional[bool] = ..., ports: _Optional[_Iterable[int]] = ..., readiness: _Optional[_Iterable[_Union[Readiness, _Mapping]]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class Conflict(_message.Message):
    __slots__ = ("field", "detail")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    field: str
    detail: str
    def __init__(self, field: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Export(_message.Message):
    __slots__ = ("namespace", "name", "ports", "endpoints", "grants")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("cluster", "trust_domain", "locality", "own", "bundle", "gateways")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    trust_domain: str
    locality: Locality
    own: bool
    bundle: Bundle
    gateways: _containers.RepeatedCompositeFieldContainer[Gateway]
    def __init__(self, cluster: _Optional[str] = ..., trust_domain: _Optional[str] = ..., locality: _Optional[_Union[Locality, _Mapping]] = ..., own: _Optional[bool] = ..., bundle: _Optional[_Union[Bundle, _Mapping]] = ..., gateways: _Optional[_Iterable[_Union[Gateway, _Mapping]]] = ...) -> None: ...
