"""Programs that do not outlive the process that starts them, however that process ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# The kernel sends a signal to a process when its parent dies, if the process asks for it; the wish survives exec. A
# hook between fork and exec is unsafe in a process with threads (grpc has some), so a bare interpreter asks and becomes
# the program: 20 ms once, and no memory. If we died in between, it sees another parent and ends.
_LAUNCH = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def die_with_parent(command: Sequence[str | Path], *, parent: int | None = None) -> list[str]:
    """`command` so that the kernel kills it (SIGKILL) when process `parent`, by default this one, is gone.

    To the kernel the parent is the *thread* that starts it: one that lives as long as the process must do that. What
    the program itself starts is not killed with it. Elsewhere than on Linux the command is returned as it is.
    """
    words = [str(word) for word in command]
    if sys.platform != "linux":
        return words
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(parent or os.getpid()), *words]
