"""`fedctl check --pre --context` against a real API server: as an administrator, as nobody, and with broken things."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.cli.main import run

pytestmark = pytest.mark.integration

COREFILE = ".:53 {\n    errors\n    forward . /etc/resolv.conf\n    reload\n}\n"
Check = Callable[..., Awaitable[dict[tuple[str, str], dict[str, str]]]]


@pytest.fixture
def check(kube_clusters: Any, kube_namespace: str, tmp_path: Path) -> Check:
    """Findings by code and subject; the kubeconfig of the administrator unless another is given."""

    async def ask(*words: str, kubeconfig: Any = None, status: int = 0) -> dict[tuple[str, str], dict[str, str]]:
        out = io.StringIO()
        given = ["--kubeconfig", str(kubeconfig or kube_clusters[0].kubeconfig), "--namespace", kube_namespace]
        where = ["--home", str(tmp_path), "check", *given, "--configmap", f"{kube_namespace}/coredns"]
        with contextlib.redirect_stdout(out):
            assert await asyncio.to_thread(run, [*where, *words, "-o", "json"]) == status, out.getvalue()
        found = json.loads(out.getvalue())["findings"]
        return {(f["code"], f["subject"].rpartition(": ")[2]): f for f in found}

    return ask


def levels(found: dict[tuple[str, str], dict[str, str]]) -> dict[str, str]:
    return {code: f["level"] for (code, _), f in found.items()}


async def test_a_cluster_in_which_isthmus_could_be_installed(
    check: Check, kube_clusters: Any, kube_namespace: str, capsys: Any
) -> None:
    async with kube_clusters[0].connect() as client:
        metadata = {"name": "coredns", "namespace": kube_namespace}
        await client.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": COREFILE}}
        )
        found = levels(await check("--pre"))
        assert {c for c, level in found.items() if level == "ok"} == {
            *("api-server", "api-version", "rights", "crds", "pod-security", "coredns", "native-sidecars")
        }
        assert found["stub-domain"] == "warning"
        # As `fedctl install dns` leaves it; a dry run of a pod leaves nothing.
        where = ["--kubeconfig", str(kube_clusters[0].kubeconfig), "--configmap", f"{kube_namespace}/coredns"]
        done = await asyncio.to_thread(run, ["install", "dns", "--to", "10.96.0.53", *where])
        assert done == 0
        capsys.readouterr()
        assert levels(await check("--pre"))["stub-domain"] == "ok"
        assert await client.list("v1", "Pod", kube_namespace) == []


async def test_who_may_nothing_is_told_what_is_missing(check: Check, kube_clusters: Any) -> None:
    found = await check("--pre", kubeconfig=kube_clusters[0].kubeconfig_for("nobody"), status=6)
    by_code = {code: f for (code, _), f in found.items()}
    assert by_code["rights"]["level"] == "error"
    assert "55 of 55 rights are missing" in by_code["rights"]["detail"]
    assert by_code["api-server"]["level"] == "ok"
    assert {by_code[code]["level"] for code in ("crds", "coredns", "native-sidecars")} == {"warning"}


async def test_an_api_server_that_does_not_answer(check: Check, kube_clusters: Any) -> None:
    with kube_clusters[0].proxy() as proxy:
        config = kube_clusters[0].kubeconfig_at(proxy.port)
    found = await check("--pre", kubeconfig=config, status=6)
    assert [code for code, _ in found] == ["api-server"]


def expired() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "injector")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=1))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def test_what_runs_there_and_a_webhook_whose_certificate_has_expired(
    check: Check, kube_clusters: Any, kube_namespace: str
) -> None:
    labels = {"app.kubernetes.io/part-of": "isthmus", "app.kubernetes.io/component": "agent"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "agent", "image": "isthmus:0.1.0"}]}}
    hook = {
        "name": f"{kube_namespace}.isthmus.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": base64.b64encode(expired()).decode()},
        "namespaceSelector": {"matchLabels": {"isthmus.io/of-nobody": "true"}},
    }
    kinds = (
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", {"webhooks": [hook]}, None),
        (
            "apps/v1",
            "Deployment",
            {"spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}},
            kube_namespace,
        ),
    )
    async with kube_clusters[0].connect() as client:
        try:
            for version, kind, body, namespace in kinds:
                metadata = {"name": kube_namespace, "labels": labels, **({"namespace": namespace} if namespace else {})}
                await client.apply({"apiVersion": version, "kind": kind, "metadata": metadata, **body})
            found = await check(status=6)
            assert found["webhook", hook["name"]]["level"] == "error"
            assert "pods start without a sidecar" in found["webhook", hook["name"]]["detail"]
            told = found["deployments", kube_namespace]
            assert (told["level"], told["detail"].startswith("0 of 2 are ready")) == ("error", True)
        finally:
            for version, kind, _, namespace in kinds:
                await client.delete(version, kind, kube_namespace, *([namespace] if namespace else []))


async def test_pods_that_asked_for_a_sidecar_and_got_none(
    check: Check, kube_clusters: Any, kube_namespace: str
) -> None:
    """No injector has ever run here, that could tell."""
    shop, label = f"{kube_namespace}-shop", "isthmus.io/inject"

    async def told() -> dict[str, str]:
        (found,) = [one for (code, _), one in (await check()).items() if code == "injection"]
        return found

    async with kube_clusters[0].connect() as client:
        await client.create_namespace(shop)
        try:
            await client.until(lambda: client.get("v1", "ServiceAccount", "default", shop))
            for name, wish in (("lonely", {}), ("own-wish", {label: "enabled"}), ("opted-out", {label: "disabled"})):
                metadata = {"name": name, "namespace": shop, "labels": wish}
                spec = {"containers": [{"name": "c", "image": "none"}]}
                await client.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            found = await told()
            assert found["level"] == "warning"
            assert f"{shop}/own-wish" in found["detail"]
            assert f"{shop}/lonely" not in found["detail"]
            await client.patch("v1", "Namespace", shop, merge={"metadata": {"labels": {label: "enabled"}}})
            assert f"{shop}/lonely, {shop}/own-wish" in (await told())["detail"]
        finally:
            await client.remove_namespace(shop, kinds=[("v1", "Pod")])
