"""The kernel's word that something in one folder changed (inotify(7)), as a callback of the event loop.

Only what the file source needs: one folder, names of files that were closed after writing, moved or deleted. The
standard library does not offer inotify; the three calls are made with ctypes (docs/adr/0007-agent-and-file-source.md).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

_CLOSE_WRITE, _ATTRIB = 0x8, 0x4
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ISDIR, _ONLYDIR = 0x40000000, 0x01000000
_MASK = _CLOSE_WRITE | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_LOST = _UNMOUNT | _IGNORED | _DELETE_SELF | _MOVE_SELF
_HEAD = struct.Struct("iIII")


class FolderWatch:
    """Calls `on_change` with the names that changed in `folder`, or with None when everything has to be looked at.

    `alive` turns False when the folder went away; `start` may then be called again. A file that is being written is
    reported when its writer closes it, not before: a created file alone is no change, a created symbolic or hard link
    is (it is never closed by a writer).
    """

    def __init__(self, folder: Path, on_change: Callable[[set[str] | None], None]) -> None:
        self._folder, self._on_change = folder, on_change
        self._descriptor = -1
        self.alive = False

    def start(self) -> None:
        """Begin to watch; raises OSError where the folder is missing or the kernel refuses (limits, other systems)."""
        self.close()
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            begin, add = libc.inotify_init1, libc.inotify_add_watch
        except AttributeError as error:
            raise OSError("this system has no inotify") from error
        descriptor = begin(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            raise _error()
        if add(descriptor, os.fsencode(self._folder), ctypes.c_uint32(_MASK)) < 0:
            failure = _error()
            os.close(descriptor)
            raise failure
        self._descriptor = descriptor
        self.alive = True
        asyncio.get_running_loop().add_reader(descriptor, self._readable)

    def close(self) -> None:
        """Stop watching; idempotent."""
        self.alive = False
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        names: set[str] = set()
        everything = False
        offset = 0
        while offset < len(data):
            _, mask, _, length = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            raw = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if mask & _LOST:
                self.alive = False
                everything = True
            elif mask & _OVERFLOW:
                everything = True
            elif raw and not mask & _ISDIR:
                name = os.fsdecode(raw)
                if not mask & _CREATE or self._is_link(name):
                    names.add(name)
            elif raw.startswith(b".."):  # "..data" of a mounted ConfigMap: all its files are replaced through it
                everything = True
        if everything:
            self._on_change(None)
        elif names:
            self._on_change(names)

    def _is_link(self, name: str) -> bool:
        try:
            status = os.lstat(self._folder / name)
        except OSError:
            return True  # it is gone again: worth a look
        return status.st_nlink > 1 or stat.S_ISLNK(status.st_mode)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
