"""fedctl inject: does to a file what the admission webhook does to pods, for those who want to see it before."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.kubeconfig import ContextOption, KubeconfigOption, with_client
from federation.cli.output import Format, OutputOption, Printer
from federation.errors import InvalidInput, InvalidSettings, NotFound
from federation.model.address import join_address, split_address
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient
    from sidecar.injector.options import Options
    from sidecar.injector.settings import InjectorSettings

INJECTOR, VOLUME, CONFIG_KEY = "isthmus-injector", "settings", "injector.yaml"
"""The Deployment, the volume of its pods with their settings, and the file in it."""
TRUST, TRUST_KEY = "isthmus-trust", "root.pem"
CLUSTER_DNS = "kube-system", "kube-dns"
"""The Service of the cluster's DNS, whichever program that is."""
_MOST = 16 << 20
_INSTALLED = "is the injector installed in this cluster?"


def register(app: typer.Typer) -> None:
    app.command(
        "inject",
        epilog="Examples: fedctl inject web.yaml --context east | kubectl apply -f -; "
        "kubectl get deployment web -o yaml | fedctl inject - --way loopback; "
        "fedctl inject web.yaml --settings injector.yaml --trust root.pem --dns 10.96.0.10",
    )(inject)


def inject(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Manifests, YAML or JSON; -: standard input.")],
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    system: Annotated[str, typer.Option(help="The namespace that isthmus is installed in.")] = SYSTEM_NAMESPACE,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The injector's settings; default: those in the cluster.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The cluster's root (PEM); default: that in the cluster.")
    ] = None,
    dns: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="The cluster's DNS; default: as the settings or the cluster say."),
    ] = None,
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Of objects that name none.")] = "",
    way: Annotated[str, typer.Option(help="Of pods without an annotation: redirect, loopback or gateway.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Give the pods in manifests a sidecar: Pods, Deployments, StatefulSets, DaemonSets, Jobs, CronJobs, Lists.

    The manifests leave on standard output, all others of them unchanged; what was done is told on standard error.
    """
    from sidecar.injector import manifests
    from sidecar.injector.options import Way

    if way and way not in list(Way):
        raise InvalidInput(f"--way {way[:40]} is none of {', '.join(Way)}", code="usage")
    if namespace:
        parse_label(namespace, what="--namespace")
    documents = manifests.load(_read(file), where="standard input" if file == "-" else file)
    if settings is not None and trust is not None:
        options = _from_files(settings, trust, dns or ())
    else:
        wanted = _Wanted(settings=settings, trust=trust, dns=tuple(dns or ()), system=system)
        options = asyncio.run(with_client(kubeconfig, context, wanted.options))
    if way:
        options = replace(options, way=Way(way))
    made, done = manifests.inject_all(documents, namespace=namespace, options=options)
    printer = Printer(output)
    if output is Format.JSON:
        printer.item(made[0] if len(made) == 1 else {"apiVersion": "v1", "kind": "List", "items": made}, line="")
    else:
        print(manifests.dump(made), end="")
    for line in manifests.summary(done):
        print(line, file=sys.stderr)
    if not done:
        print("there is nothing in it that makes pods", file=sys.stderr)


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read(_MOST + 1) if file == "-" else Path(file).read_bytes()
        text = data.decode()
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}", code="manifest_invalid") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is no text: byte {error.start} is no UTF-8", code="manifest_invalid") from error
    if len(data) > _MOST:
        raise InvalidInput(f"{file} has more than {_MOST} bytes", code="manifest_invalid")
    return text


def _from_files(settings: Path, trust: Path, dns: Sequence[str]) -> Options:
    """What pods get, without a cluster to ask. Raises InvalidSettings for what only the cluster could tell."""
    from sidecar.injector.settings import read

    known = read(settings)
    for host, _ in _enrolment(known):
        if not _is_address(host):
            raise InvalidSettings(
                f"agent.enrolment names {host}, which a pod cannot look up before its sidecar runs",
                hint="write its address, or give --context and leave out --settings or --trust: the cluster is asked",
            )
    addresses = tuple(join_address(host, port) for host, port in _enrolment(known))
    return _options(known, addresses, _roots(trust), dns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What was given; all else is asked of the cluster."""

    settings: Path | None
    trust: Path | None
    dns: tuple[str, ...]
    system: str

    async def options(self, client: KubeClient) -> Options:
        """Raises NotFound where isthmus is not installed there."""
        from sidecar.injector.settings import parse, read

        if self.settings is not None:
            known = read(self.settings)
        else:
            name = await self._injector_config(client)
            text = await self._config(client, name, CONFIG_KEY, _INSTALLED)
            known = parse(text, where=f"ConfigMap {self.system}/{name}, {CONFIG_KEY}")
        if self.trust is not None:
            roots = _roots(self.trust)
        else:
            roots = await self._config(client, TRUST, TRUST_KEY, "has the agent of this cluster joined?")
        addresses = [
            join_address(host if _is_address(host) else await _service(client, host), port)
            for host, port in _enrolment(known)
        ]
        dns = self.dns or known.pods.dns.servers or (await _cluster_ip(client, *CLUSTER_DNS),)
        return _options(known, tuple(addresses), roots, dns)

    async def _injector_config(self, client: KubeClient) -> str:
        """The ConfigMap that new pods of the injector begin with: it is named by what is in it."""
        from discovery.kube.objects import DEPLOYMENTS

        found = await _get(client, DEPLOYMENTS, self.system, INJECTOR, _INSTALLED)
        volumes = found["spec"]["template"]["spec"].get("volumes") or ()
        name = next((one.get("configMap", {}).get("name") for one in volumes if one["name"] == VOLUME), None)
        if not name:
            raise NotFound(f"Deployment {self.system}/{INJECTOR} mounts no settings", hint="give --settings")
        return str(name)

    async def _config(self, client: KubeClient, name: str, key: str, hint: str) -> str:
        from discovery.kube.resources import CONFIG_MAPS

        found = await _get(client, CONFIG_MAPS, self.system, name, hint)
        text = (found.get("data") or {}).get(key)
        if not text:
            raise NotFound(f"ConfigMap {self.system}/{name} has no {key}", hint=hint)
        return str(text)


def _options(known: InjectorSettings, enrolment: tuple[str, ...], roots: str, dns: Sequence[str]) -> Options:
    import msgspec

    from sidecar.injector.settings import cluster_dns, options

    given = msgspec.structs.replace(known.pods.dns, servers=tuple(dns) or known.pods.dns.servers)
    try:
        names = cluster_dns(given, "", namespace=known.namespace)
    except InvalidSettings as error:
        raise InvalidSettings(error.message, hint="give --dns, or set pods.dns.servers") from error
    assert known.agent is not None  # noqa: S101 - checked
    return options(known, trust_domain=known.agent.trust_domain, enrolment=enrolment, roots=roots, dns=names)


def _roots(path: Path) -> str:
    from federation.trust.keys import chain_from_pem

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", code="anchors_invalid") from error
    try:
        chain_from_pem(data)
        return data.decode()
    except (InvalidInput, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} holds no certificate (PEM)", code="anchors_invalid") from error


def _enrolment(known: InjectorSettings) -> list[tuple[str, int]]:
    assert known.agent is not None  # noqa: S101 - checked
    return [split_address(text, what="agent.enrolment", zero=False) for text in known.agent.enrolment]


async def _service(client: KubeClient, host: str) -> str:
    """The address of a Service by its name as pods look it up. Raises InvalidSettings for another name."""
    name, *rest = host.split(".")
    if len(rest) < 2 or rest[1] != "svc":
        raise InvalidSettings(
            f"agent.enrolment names {host}, which is no Service (NAME.NAMESPACE.svc)", hint="write its address"
        )
    return await _cluster_ip(client, rest[0], name)


async def _cluster_ip(client: KubeClient, namespace: str, name: str) -> str:
    from discovery.kube.resources import SERVICES

    found = await _get(client, SERVICES, namespace, name, "give its address: --dns, or agent.enrolment in --settings")
    address = str((found.get("spec") or {}).get("clusterIP") or "")
    if not _is_address(address):
        raise NotFound(f"Service {namespace}/{name} has no address of its own", hint="give it: --dns, or --settings")
    return address


async def _get(client: KubeClient, resource: Any, namespace: str, name: str, hint: str) -> dict[str, Any]:
    import msgspec

    try:
        found: dict[str, Any] = msgspec.json.decode(await client.get(resource, namespace, name))
    except NotFound as error:
        raise NotFound(f"there is no {resource.kind} {namespace}/{name} in the cluster", hint=hint) from error
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
