"""Options that several commands share: where pods of Isthmus are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from federation.cli.home import Place
from federation.model.ids import SYSTEM_NAMESPACE, parse_label

PodContextOption = Annotated[
    str, typer.Option("--context", metavar="NAME", help="It runs in a pod: the context that leads to its cluster.")
]
PodKubeconfigOption = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        help="The kubeconfig with the context.",
        show_default="$KUBECONFIG, ~/.kube/config",
    ),
]
PodNamespaceOption = Annotated[str, typer.Option("--namespace", help="Where Isthmus is installed.")]


def place_of(context: str, kubeconfig: str | None, namespace: str = SYSTEM_NAMESPACE) -> Place | None:
    """Where the options lead; None where neither context nor kubeconfig is given. Raises InvalidName."""
    if not context and kubeconfig is None:
        return None
    parse_label(namespace, what="namespace")
    return Place(kubeconfig=str(_kubeconfig(kubeconfig)), context=context, namespace=namespace)


def _kubeconfig(given: str | None) -> Path:
    """The one that is given; otherwise the first of kubectl's that exists."""
    if given is not None:
        return Path(given).expanduser().absolute()
    names = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name] or ["~/.kube/config"]
    paths = [Path(name).expanduser().absolute() for name in names]
    return next((path for path in paths if path.exists()), paths[0])
