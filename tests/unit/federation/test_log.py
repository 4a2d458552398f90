import json
from collections.abc import Iterator

import pytest
import structlog

from federation import log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_json_object_with_the_process_s_fields(capsys: pytest.CaptureFixture[str]):
    log.configure(level="info", json=True, cluster="east", process="agent")
    logger = log.get("watch")
    logger.debug("not shown")
    logger.info("connected", revision=7)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry["event"] == "connected"
    assert (entry["cluster"], entry["process"], entry["revision"], entry["level"]) == ("east", "agent", 7, "info")
