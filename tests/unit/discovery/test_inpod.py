"""The settings of an agent in a pod: what the file says, what joining decided, and what is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from discovery.inpod import Known, NoToken, load, passes, whole
from discovery.kube import errors as kube
from discovery.kube import shared
from federation import errors

KNOWN = Known(cluster="east", federation="fed.example", registry="192.0.2.1:7400", single_machine=True)


def file(tmp_path: Path, **keys: object) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({"cluster": "east", **keys}))
    return path


def test_a_name_is_enough(tmp_path: Path) -> None:
    settings = load(file(tmp_path))
    assert settings.directory == "/var/lib/isthmus"
    assert settings.kubernetes is not None
    assert settings.kubernetes.kubeconfig == ""  # the service account of the pod
    assert settings.identities == {os.getuid(): ["isthmus-system/gateway", "*/*"]}


def test_what_joining_decided_is_put_to_what_the_file_says(tmp_path: Path) -> None:
    found = whole(load(file(tmp_path, suffix="mesh", svid_ttl=600)), KNOWN)
    assert (found.federation, found.registry, found.single_machine) == ("fed.example", "192.0.2.1:7400", True)
    assert (found.cluster, found.suffix, found.svid_ttl) == ("east", "mesh", 600)


def test_a_registry_that_moved_is_named_in_the_file(tmp_path: Path) -> None:
    assert whole(load(file(tmp_path, registry="192.0.2.9:7400")), KNOWN).registry == "192.0.2.9:7400"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"federation": "fed.example"}, "federation is decided by joining"),
        ({"single_machine": True}, "single_machine is decided by joining"),
        ({"svid_ttl": -1}, "svid_ttl must be above 0"),
        ({"cluster": "Not a label"}, "cluster"),
        ({"no_such_key": 1}, "no_such_key"),
        ({"registry": "nowhere"}, "registry"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_before_anything_is_asked(
    tmp_path: Path, keys: dict[str, object], says: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=says):
        load(file(tmp_path, **keys))


def test_a_cluster_does_not_change_its_name(tmp_path: Path) -> None:
    with pytest.raises(errors.Conflict, match="for the cluster west") as caught:
        whole(load(file(tmp_path, cluster="west")), KNOWN)
    assert caught.value.error_code == "cluster_renamed"


@pytest.mark.parametrize(
    ("error", "waited_for"),
    [
        (errors.Unavailable("the registry is away"), True),
        (errors.TimedOut("it does not answer"), True),
        (kube.Unreachable("the API server is away"), True),
        (kube.Forbidden("RBAC is applied a moment later"), True),
        (kube.Unauthorised("the account is made a moment later"), True),
        (kube.NotFound("the namespace is made a moment later"), True),
        (kube.Conflict("another replica was faster"), True),
        (NoToken("nobody has issued one"), True),
        (shared.Joining("another replica is at it"), True),
        (errors.Denied("token_used"), False),
        (errors.InvalidInput("token_malformed"), False),
        (errors.InvalidSettings("no pod, no kubeconfig"), False),
        (errors.AlreadyExists("the name is taken"), False),
        (errors.Conflict("another root"), False),
        (errors.CorruptState("the Secret is damaged"), False),
        (errors.StorageFailed("the volume is full"), False),
    ],
)
def test_what_can_pass_is_waited_for(error: errors.IsthmusError, waited_for: bool) -> None:
    assert passes(error) is waited_for
