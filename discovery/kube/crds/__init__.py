"""The custom resources that the agent reads and writes: the Multi-Cluster Services API and the About API.

The manifests are ours; groups, versions, schemas and labels are those of the public APIs, so that it does not matter
whose were installed first. `fedctl install crds` and the tests apply them.
"""

from __future__ import annotations

from importlib.resources import files

NAMES = ("serviceexports", "serviceimports", "clusterproperties")


def manifests() -> tuple[str, ...]:
    """The CustomResourceDefinitions, each as YAML."""
    folder = files("discovery.kube.crds")
    return tuple((folder / f"{name}.yaml").read_text() for name in NAMES)
