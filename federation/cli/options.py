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
    return Place(kubeconfig=_kubeconfig(kubeconfig), context=context, namespace=namespace)


def _kubeconfig(given: str | None) -> str:
    """What is given; otherwise kubectl's. Several files are joined as in KUBECONFIG: the context may be in any."""
    text = given if given is not None else os.environ.get("KUBECONFIG", "") or "~/.kube/config"
    paths = [Path(name).expanduser().absolute() for name in text.split(os.pathsep) if name]
    return os.pathsep.join(str(path) for path in [path for path in paths if path.exists()] or paths[:1])
