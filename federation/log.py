"""Structured logs: one JSON object a line on stderr, or short coloured lines on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

# structlog.dev takes rich for its tracebacks where it can be had: 4 MB and pygments in processes that never show one.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _hidden:
    del sys.modules["rich"]

Logger = structlog.typing.FilteringBoundLogger


def configure(*, level: str = "info", json: bool | None = None, **fields: Any) -> None:
    """Set up logging for this process; `fields` (cluster, process …) stand on every line.

    `json` None means: JSON unless stderr is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**fields)


def get(name: str) -> Logger:
    """A logger whose lines carry `component=name`."""
    logger: Logger = structlog.get_logger(component=name)  # "logger" is a parameter of structlog's own
    return logger
