"""The generated protobuf modules are those of their .proto files."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
GENERATED = Path("federation/proto/v1")


def test_generated_modules_are_current(tmp_path: Path):
    (tmp_path / GENERATED).mkdir(parents=True)
    subprocess.run(
        [ROOT / "scripts/proto", tmp_path],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        timeout=60,
    )
    for fresh in sorted((tmp_path / GENERATED).iterdir()):
        committed = ROOT / GENERATED / fresh.name
        assert committed.exists(), f"run scripts/proto: {fresh.name} is missing"
        assert fresh.read_text() == committed.read_text(), f"run scripts/proto: {fresh.name} is out of date"
