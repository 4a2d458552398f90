"""Images on their way to an engine: what Docker refuses them for. It is stood in for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusters.images import delivery
from clusters.images.archive import assemble
from federation.errors import IsthmusError


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("ctr: write /var/lib/containerd/x: no space left on device", "no_disk"),
        ("ctr: unexpected EOF", "load_failed"),
    ],
)
def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" != load ] || {{ cat >/dev/null; echo "{said}" >&2; }}\nexit 1\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    image = assemble("isthmus:0.1.0", [], {}, architecture="amd64", epoch=0)
    with pytest.raises(IsthmusError) as caught:
        delivery.load([image])
    assert caught.value.error_code == code
    assert said in caught.value.message
