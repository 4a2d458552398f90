"""From a sidecar through a gateway to a workload."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.integration
