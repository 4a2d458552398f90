"""Stands in for kubectl where a documentation's commands are run: the few words of it that they use.

`python kubectl.py SOCKET` serves it, and fedctl, by clusters.forked. It also plays the nodes that local API servers do
not have: a Deployment gets a Pod that runs at $POD_ADDRESS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from clusters.forked import serve
from clusters.kubeclient import KubeClient, connect, parse


def main(words: list[str]) -> int:
    """The exit status of the command `words`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--context")
    parser.add_argument("--kubeconfig", type=Path, default=Path(os.environ["KUBECONFIG"]))
    parser.add_argument("-n", "--namespace", default="default")
    known, rest = parser.parse_known_args(words)
    if rest[0] == "config":
        config(known, rest[1:])
    else:
        asyncio.run(ask(known, rest))
    return 0


def config(known: argparse.Namespace, words: list[str]) -> None:
    tree = yaml.safe_load(known.kubeconfig.read_text())

    def named(kind: str, name: str) -> Any:
        return next(one for one in tree[kind] if one["name"] == name)

    if words[0] == "view":
        context = named("contexts", known.context)
        kept = {
            "contexts": [context],
            "clusters": [named("clusters", context["context"]["cluster"])],
            "users": [named("users", context["context"]["user"])],
        }
        print(yaml.safe_dump({**tree, **kept, "current-context": known.context}))
        return
    if words[0] == "set-credentials":
        tree["users"].append({"name": words[1], "user": {"token": words[words.index("--token") + 1]}})
    else:
        named("contexts", tree["current-context"])["context"]["user"] = words[words.index("--user") + 1]
    known.kubeconfig.write_text(yaml.safe_dump(tree))


async def ask(known: argparse.Namespace, words: list[str]) -> None:
    path = Path(os.environ["KUBECONFIGS"]) / f"{known.context}.kubeconfig"
    async with connect(path) as client:
        if words[:2] == ["create", "namespace"]:
            await client.create_namespace(words[2])
        elif words[:2] == ["create", "token"]:
            print(await client.token(known.namespace, words[2], seconds=24 * 3600))
        elif words[0] == "apply":
            for one in parse([sys.stdin.read()]):
                await client.apply(one)
                if one["kind"] == "Deployment":
                    await run(client, one)
        elif words[0] == "get":
            kind = {"serviceimports": ("multicluster.x-k8s.io/v1beta1", "ServiceImport")}[words[1]]
            for one in await client.list(*kind, known.namespace):
                print(one["metadata"]["name"], one["spec"]["type"], ",".join(one["spec"].get("ips", [])))
        else:
            sys.exit(f"the stand-in for kubectl does not know {words}")


async def run(client: KubeClient, deployment: dict[str, Any]) -> None:
    """A Pod of the Deployment, running and ready; its endpoints need the Node that it names."""
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{metadata['name']}-1", "namespace": metadata["namespace"], **template["metadata"]},
        "spec": {**template["spec"], "nodeName": "node-1"},
    }
    await client.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
    address = os.environ["POD_ADDRESS"]
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }

    async def created() -> Any:
        return await client.apply(pod)

    await client.until(created, what="the Pod")  # its service account comes with the namespace, a moment later
    await client.patch(
        "v1", "Pod", pod["metadata"]["name"], metadata["namespace"], merge={"status": status}, subresource="status"
    )


if __name__ == "__main__":
    import federation.registry.init  # noqa: F401
    from federation.cli.main import run as fedctl

    serve(sys.argv[1], {"kubectl": main, "fedctl": fedctl})
