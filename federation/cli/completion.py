"""What a shell offers when Tab is pressed: what is known without asking anybody."""

from __future__ import annotations

from pathlib import Path

import typer

from federation.cli.home import Home
from federation.errors import IsthmusError


def known_clusters(context: typer.Context, incomplete: str) -> list[str]:
    """The clusters of contexts.yaml that begin so; none where that cannot be read: a prompt is no place for errors."""
    try:
        home = Home.load(Path(context.find_root().params["home"]).expanduser())
    except (IsthmusError, OSError, KeyError):
        return []
    return [name for name in sorted(home.clusters) if name.startswith(incomplete)]
