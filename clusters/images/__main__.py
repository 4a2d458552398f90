"""`scripts/image`: build container images, and hand them to Docker, to kind clusters or to a file."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from clusters.images import delivery
from clusters.images.builder import Builder
from clusters.images.recipe import VARIANTS
from federation.errors import IsthmusError


def main(arguments: Sequence[str] | None = None) -> int:
    """Progress goes to stderr, what was made to stdout; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/image",
        description="Builds images from Debian packages and the wheels of requirements.lock: nothing is pulled, and the"
        " same inputs give the same digest. Layers are kept in ${XDG_CACHE_HOME:-~/.cache}/isthmus/images.",
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"one of {', '.join(VARIANTS)} (default: isthmus)")
    parser.add_argument("--load", action="store_true", help="load them into the Docker engine")
    parser.add_argument(
        "--kind", action="append", default=[], metavar="CLUSTER", help="load them into a kind cluster's nodes"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write them to one archive (docker load, OCI)"
    )
    parser.add_argument(
        "--trees", type=Path, metavar="DIR", help="write the layers of isthmus as folders, for the Dockerfile"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        builder = Builder(say=_say)
        if options.trees is not None:
            builder.trees(options.trees)
            return 0
        images = [builder.image(name) for name in dict.fromkeys(options.images or ["isthmus"])]
        if options.output is not None:
            delivery.save(images, options.output)
        if options.load:
            delivery.load(images)
        for cluster in options.kind:
            delivery.load_into_kind(images, cluster)
    except IsthmusError as error:
        _say(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    for image in images:
        if options.json:
            parts = [{"name": x.name, "digest": f"sha256:{x.digest}", "bytes": x.size} for x in image.layers]
            about = {"image": image.reference, "id": image.id, "digest": image.digest, "bytes": image.size}
            print(json.dumps({**about, "layers": parts}))
        else:
            print(f"{image.reference} {image.digest} {image.size / 1e6:.1f} MB")
    return 0


def _say(line: str) -> None:
    print(f"scripts/image: {line}", file=sys.stderr, flush=True)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
