from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from federation.aio.clock import FakeClock
from federation.errors import NotFound
from federation.log import get
from sidecar.injector.events import Tale
from sidecar.injector.missed import Missed


class FakeEvents:
    def __init__(self) -> None:
        self.told: list[Tale] = []

    def tell(self, tale: Tale) -> None:
        self.told.append(tale)


class FakeApi:
    """Namespaces and pods, by the paths that are asked for."""

    def __init__(self, labelled: list[str], pods: list[dict[str, Any]]) -> None:
        self.labelled, self.pods = labelled, pods
        self.whole = 0

    async def ask(self, method: str, path: str, body: Any = None, *, accept: str = "") -> Any:
        assert method == "GET"
        path, _, query = unquote(path).partition("?")
        if path == "/api/v1/namespaces":
            assert query == "labelSelector=isthmus.io/inject in (enabled,true)"
            return {"items": [{"metadata": {"name": name}} for name in self.labelled]}
        if path == "/api/v1/pods":
            wanted = [p for p in self.pods if p["metadata"]["labels"].get("isthmus.io/inject") in ("enabled", "true")]
            return {"items": [{"metadata": p["metadata"]} for p in wanted]}
        namespace, *name = path.removeprefix("/api/v1/namespaces/").split("/pods/")
        if not name:
            namespace = namespace.removesuffix("/pods")
            return {
                "items": [{"metadata": p["metadata"]} for p in self.pods if p["metadata"]["namespace"] == namespace]
            }
        self.whole += 1
        for pod in self.pods:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name[0]):
                return pod
        raise NotFound(path)


def pod(namespace: str, name: str, *, labels: Any = None, annotations: Any = None, **more: Any) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "uid": f"u-{namespace}-{name}", "labels": labels or {}}
    if annotations:
        metadata["annotations"] = annotations
    spec = {"containers": [{"name": "c"}], **more.pop("spec", {})}
    return {"metadata": {**metadata, **more.pop("metadata", {})}, "spec": spec, **more}


async def test_pods_that_nobody_injected_are_told_and_others_are_not() -> None:
    pods = [
        pod("shop", "missed"),
        pod("other", "asked-itself", labels={"isthmus.io/inject": "enabled"}),
        pod("shop", "typo", annotations={"isthmus.io/way": "sideways"}),
        pod("other", "asked-not"),
        pod("shop", "injected", annotations={"isthmus.io/injected": "0.1.0"}),
        pod("shop", "opted-out", labels={"isthmus.io/inject": "disabled"}),
        pod("shop", "host", spec={"hostNetwork": True}),
        pod("shop", "done", status={"phase": "Succeeded"}),
        pod("shop", "going", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        pod("kube-system", "dns"),
    ]
    api, events = FakeApi(["shop", "kube-system"], pods), FakeEvents()
    missed = Missed(api, events, "isthmus-system", clock=FakeClock(), log=get("test"))  # type: ignore[arg-type]
    await missed.look()
    assert [t.about["name"] for t in events.told] == ["asked-itself", "missed", "typo"]
    assert missed.count == 3
    assert events.told[0].about["uid"] == "u-other-asked-itself"
    assert "create it anew" in events.told[0].message
    looked = api.whole
    await missed.look()
    assert api.whole - looked == 3  # those that need nothing are not asked for again
    api.pods.clear()
    await missed.look()
    assert missed.count == 0
