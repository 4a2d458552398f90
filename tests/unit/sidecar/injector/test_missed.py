from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from federation.aio.clock import FakeClock
from federation.errors import NotFound
from federation.log import get
from sidecar.injector.events import Tale
from sidecar.injector.missed import MOST, PAGE, TOLD, Missed


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
        self.pages: list[list[dict[str, Any]]] = []

    async def ask(self, method: str, path: str, body: Any = None, *, accept: str = "", form: Any = Any) -> Any:
        assert method == "GET"
        path, _, text = path.partition("?")
        query = dict(parse_qsl(text))
        if form is not Any:
            items = [item for item in self._all(path, query) if not done(item)]
            start, limit = int(query.get("continue", "0")), int(query["limit"])
            self.pages.append(items[start : start + limit])
            token = {"continue": str(start + limit)} if start + limit < len(items) else {}
            return msgspec.convert({"metadata": token, "items": self.pages[-1]}, form)
        self.whole += 1
        namespace, *name = path.removeprefix("/api/v1/namespaces/").split("/pods/")
        for pod in self.pods:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name[0]):
                return pod
        raise NotFound(path)

    def _all(self, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        if path == "/api/v1/namespaces":
            assert query["labelSelector"] == "isthmus.io/inject in (enabled,true)"
            return [{"metadata": {"name": name}} for name in self.labelled]
        assert query["fieldSelector"] == "status.phase!=Succeeded,status.phase!=Failed"
        if path == "/api/v1/pods":
            assert query["labelSelector"] == "isthmus.io/inject in (enabled,true)"
            return [p for p in self.pods if p["metadata"]["labels"].get("isthmus.io/inject") in ("enabled", "true")]
        namespace = path.removeprefix("/api/v1/namespaces/").removesuffix("/pods")
        return [p for p in self.pods if p["metadata"]["namespace"] == namespace]


def done(item: dict[str, Any]) -> bool:
    return item.get("status", {}).get("phase") in ("Succeeded", "Failed")


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
    assert (api.whole, missed.count) == (looked, 3)  # each is asked for once
    pods[0]["status"] = {"phase": "Succeeded"}
    pods[2]["metadata"]["labels"] = {"isthmus.io/inject": "disabled"}
    await missed.look()
    assert (api.whole, missed.count) == (looked, 1)
    api.pods.clear()
    await missed.look()
    assert missed.count == 0


async def test_many_pods_are_read_in_pages_and_looked_at_and_told_over_several_rounds() -> None:
    clock = FakeClock()
    api, events = FakeApi(["shop"], [pod("shop", f"p-{n}") for n in range(1200)]), FakeEvents()
    missed = Missed(api, events, "isthmus-system", clock=clock, log=get("test"))  # type: ignore[arg-type]
    await missed.look()
    assert [len(page) for page in api.pages if page] == [1, PAGE, PAGE, 200]  # the namespace, and its pods
    assert (api.whole, missed.count, len(events.told)) == (MOST, MOST, TOLD)
    for _ in range(29):
        clock.advance(60)
        await missed.look()
    assert (api.whole, missed.count) == (1200, 1200)
    assert len(events.told) == 30 * TOLD
    assert len({tale.about["name"] for tale in events.told}) == 1200
