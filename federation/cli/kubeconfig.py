"""Which cluster a command speaks to, by the kubeconfig of an administrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from discovery.kube.client import KubeClient

T = TypeVar("T")

KubeconfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar="KUBECONFIG", show_default="~/.kube/config", help="Kubeconfig of an administrator."
    ),
]
ContextOption = Annotated[
    str, typer.Option("--context", metavar="NAME", help="Context in it; default: its current one.")
]


def kubeconfig_or_default(given: Path | None) -> Path:
    """The kubeconfig that kubectl would read."""
    return (given or Path("~/.kube/config")).expanduser()


async def with_client(kubeconfig: Path | None, context: str, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    """What `work` does with the API server that the options name.

    Raises what discovery.kube.client raises; where rights lack, they are those of the person.
    """
    from discovery.kube.client import KubeClient
    from discovery.kube.errors import Forbidden
    from discovery.kube.settings import KubernetesSettings
    from federation import log
    from federation.aio.clock import SystemClock

    settings = KubernetesSettings(kubeconfig=str(kubeconfig_or_default(kubeconfig)), context=context)
    client = await KubeClient.open(settings, log=log.get("fedctl"), clock=SystemClock())
    try:
        return await work(client)
    except Forbidden as error:
        hint = error.hint.replace("the agent's ClusterRole lacks", "the user of the kubeconfig lacks")
        raise Forbidden(error.message, hint=hint) from error
    finally:
        await client.close()
