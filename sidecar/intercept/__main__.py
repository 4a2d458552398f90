"""`isthmus-redirect`: sets the rule and the route of the redirect way, or takes them away; for a unit or a container.

So the sidecar itself needs no right: this is run once, before it, by whoever has NET_ADMIN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from federation.errors import IsthmusError
from sidecar.intercept.redirect import Redirect, apply, remove


def main(arguments: Sequence[str] | None = None) -> int:
    """The process; returns its exit status."""
    default = Redirect()
    parser = argparse.ArgumentParser(prog="isthmus-redirect", description="Lead virtual addresses to the sidecar")
    parser.add_argument("--network", default=default.network, help="`range` of the sidecar (default: %(default)s)")
    parser.add_argument("--port", type=int, default=default.port, help="its outbound_port (default: %(default)s)")
    parser.add_argument("--undo", action="store_true", help="take rule and route away")
    options = parser.parse_args(arguments)
    try:
        (remove if options.undo else apply)(Redirect(network=options.network, port=options.port))
    except IsthmusError as error:
        print(f"isthmus-redirect: {error} [{error.error_code}]", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
