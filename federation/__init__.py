"""Isthmus: joins separate clusters into one federation."""

import os

# Before gRPC is first used: without its event engine the thread that polls the sockets hands each message over itself,
# and a message arrives in 60 % of the time for 70 % of the CPU (docs/adr/0001-one-replication-protocol.md).
os.environ.setdefault(
    "GRPC_EXPERIMENTS",
    "-event_engine_client,-event_engine_listener,-event_engine_callback_cq,-event_engine_for_all_other_endpoints",
)
# Every line that a program logs is its own. What gRPC would print of a failed handshake reaches whoever calls, as an
# error (federation.registry.status); who looks for a fault in gRPC itself sets GRPC_VERBOSITY.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__version__ = "0.1.0"
"""That of pyproject.toml; reading it from the installed metadata would cost every process 2 MB of imports."""
