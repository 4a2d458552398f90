"""Which service a global name means, for `fedctl resolve`, and which services could have none."""

from __future__ import annotations

from federation.envoy.names import server_name
from federation.errors import InvalidName
from federation.model.ids import ServiceName

CLUSTERSET = ("svc", "clusterset", "local")
_MAX_SERVER_NAME = 253
"""Characters of a host name (RFC 1035, 2.3.4), which a TLS server name is (RFC 6066, 3)."""


def parse_global(text: str, *, suffix: str = "global") -> tuple[ServiceName, str | None]:
    """(service, cluster that the name pins or None) of a global name or "<namespace>/<service>"; raises InvalidName."""
    if "/" in text:
        return ServiceName.parse(text), None
    labels = tuple(text.lower().removesuffix(".").split("."))
    end = tuple(suffix.split("."))
    if labels[-3:] == CLUSTERSET and len(labels) == 5:
        return _service(labels[1], labels[0]), None
    if labels[-len(end) :] == end and len(labels) - len(end) in (2, 3):
        cluster = labels[2] if len(labels) - len(end) == 3 else None
        return _service(labels[1], labels[0]), cluster
    raise InvalidName(
        f"{text[:80]!r} is no global name",
        hint=f"for example echo.shop.{suffix}, echo.shop.east.{suffix} or echo.shop.svc.clusterset.local",
    )


def _service(namespace: str, name: str) -> ServiceName:
    return ServiceName.parse(f"{namespace}/{name}")


def check_callable(name: ServiceName, trust_domain: str) -> None:
    """Raises InvalidName where the server name of a port, by which peers call the gateways, would be too long."""
    length = len(server_name(name, 65535, trust_domain))
    if length > _MAX_SERVER_NAME:
        raise InvalidName(
            f"{name} makes a server name of {length} characters, {length - _MAX_SERVER_NAME} too many",
            hint="shorten the names of the service, its namespace, the cluster, or the federation's domain",
            code="name_too_long",
        )
