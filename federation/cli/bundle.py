"""What a virtual machine needs to join, as files: pure text from what its agent answered to the invitation.

The token is the only secret in it, works once and for minutes. Others may add files of their own (units, hooks).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from federation.aio.files import write_atomic
from federation.errors import InvalidInput, StorageFailed

SETTINGS = {"sidecar": "sidecar.yaml", "gateway": "gateway.yaml"}
TOKEN, ANCHORS = "join.token", "anchors.pem"
DNS = {"host": "127.0.0.1", "port": 5353}
"""Where a sidecar that nobody has installed yet answers names: a port that needs no right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the agent answered, and who is invited."""

    vm: str
    cluster: str
    namespace: str
    account: str
    trust_domain: str
    token: str
    anchors: str
    """PEM."""
    enrolment: Sequence[str]
    addresses: Sequence[str]
    suffix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VmBundle:
    """Files by name, and what they are for."""

    vm: str
    cluster: str
    process: str
    """"sidecar" or "gateway"."""
    expires: str
    fingerprint: str
    files: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """One tree that holds everything, for one YAML document."""
        return {
            "vm": self.vm,
            "cluster": self.cluster,
            "process": self.process,
            "expires": self.expires,
            "fingerprint": self.fingerprint,
            "files": dict(self.files),
        }

    def text(self) -> str:
        """`document` as YAML that a person can read: files keep their lines."""
        head = f"# The bundle of VM {self.vm}: unpack it there with `fedctl vm unpack FILE DIR`.\n"
        return head + yaml.dump(self.document(), Dumper=_Dumper, sort_keys=False)

    def write(self, directory: Path) -> None:
        """Every file, mode 0600, in a directory 0700; those of an earlier bundle are replaced. Raises StorageFailed."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
        for name, content in self.files.items():
            write_atomic(directory / name, content.encode())

    @classmethod
    def read(cls, directory: Path) -> VmBundle:
        """What `write` wrote; who it is for, its settings say. Raises InvalidInput (bundle_malformed), OSError."""
        for process, settings in SETTINGS.items():
            if (directory / settings).is_file():
                names = (settings, TOKEN, ANCHORS)
                files = {n: (directory / n).read_text(encoding="utf-8") for n in names if (directory / n).is_file()}
                return cls(vm="", cluster="", process=process, expires="", fingerprint="", files=files)
        raise _malformed(f"{directory} has none of {', '.join(SETTINGS.values())}")

    @classmethod
    def parse(cls, text: str) -> VmBundle:
        """What `text` wrote; raises InvalidInput (bundle_malformed)."""
        try:
            tree = yaml.safe_load(text)
            files = {str(name): str(content) for name, content in tree["files"].items()}
            found = cls(
                **{k: str(tree[k]) for k in ("vm", "cluster", "process", "expires", "fingerprint")}, files=files
            )
        except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
            raise _malformed("it is not what `fedctl vm bootstrap` prints") from error
        for name in files:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise _malformed(f"the file name {name[:80]!r} leads out of the directory")
        return found


def sidecar(invitation: Invitation, *, state: str) -> dict[str, str]:
    """The files of a machine that runs a sidecar. It answers DNS on loopback, and forwards nothing until told where."""
    settings = {
        **_common(invitation, state),
        "namespace": invitation.namespace,
        "account": invitation.account,
        "dns": dict(DNS),
    }
    return _files(invitation, SETTINGS["sidecar"], settings)


def gateway(invitation: Invitation, *, state: str, address: str, port: int) -> dict[str, str]:
    """The files of a machine that runs a gateway, which peers reach at this address."""
    settings = {**_common(invitation, state), "address": address, "port": port}
    return _files(invitation, SETTINGS["gateway"], settings)


def _common(invitation: Invitation, state: str) -> dict[str, object]:
    return {
        "name": invitation.vm,
        "state_directory": state,
        "agent": {
            "trust_domain": invitation.trust_domain,
            "enrolment": list(invitation.enrolment),
            "addresses": list(invitation.addresses),
            "anchors": ANCHORS,
            "token_file": TOKEN,
        },
        "suffix": invitation.suffix,
    }


def _files(invitation: Invitation, name: str, settings: dict[str, object]) -> dict[str, str]:
    head = textwrap.dedent(
        f"""\
        # VM {invitation.vm} of cluster {invitation.cluster}; docs/settings.md tells what else can be set.
        # Relative paths start here. What is learnt and kept is in state_directory: never copy that to another machine.
        """
    )
    return {
        name: head + yaml.safe_dump(settings, sort_keys=False),
        TOKEN: invitation.token + "\n",
        ANCHORS: invitation.anchors,
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(
        f"no bundle of a VM: {why}", hint="print a new one: fedctl vm bootstrap", code="bundle_malformed"
    )
