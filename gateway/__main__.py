"""`python -m gateway --settings FILE [--set KEY=VALUE]…`; docs/settings.md describes the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from federation.registry.edge import lean

with lean.imports():
    from federation.registry.edge.main import main as edge_main
    from gateway.settings import GatewaySettings, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit status."""
    return edge_main("gateway", arguments, read=read, serve=_serve)


async def _serve(settings: GatewaySettings) -> None:
    with lean.imports():  # not before the process is prepared, and not for a settings file that is wrong
        from gateway.agent import serve

    await serve(settings)


if __name__ == "__main__":
    sys.exit(main())
