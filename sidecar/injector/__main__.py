"""`isthmus-injector --settings FILE [--set KEY=VALUE]…`; docs/settings.md describes the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from federation.registry.edge.main import main as edge_main
from sidecar.injector.settings import InjectorSettings, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit status."""
    return edge_main("sidecar.injector", arguments, read=read, serve=_serve)


async def _serve(settings: InjectorSettings) -> None:
    from sidecar.injector.process import serve  # not for a settings file that is wrong

    await serve(settings)


if __name__ == "__main__":
    sys.exit(main())
