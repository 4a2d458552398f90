"""`python -m sidecar --settings FILE`; docs/settings.md describes the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from federation.registry.edge.main import main as edge_main
from sidecar.agent import serve
from sidecar.settings import read


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit status."""
    return edge_main("sidecar", arguments, read=read, serve=serve)


if __name__ == "__main__":
    sys.exit(main())
