"""Which mappings are given back: code of files that was never written."""

from __future__ import annotations

from federation.registry.edge import memory

SMAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /lib/libfoo.so.1
Rss: 4 kB
Anonymous: 0 kB
7f0000001000-7f0000002000 r-xp 00000000 08:01 1 /lib/patched.so
Anonymous: 4 kB
7f0000002000-7f0000003000 rw-p 00000000 08:01 1 /lib/libfoo.so.1
Anonymous: 0 kB
7f0000003000-7f0000004000 r-xp 00000000 00:00 0 [vdso]
Anonymous: 0 kB
7f0000004000-7f0000005000 r-xp 00000000 00:00 0
Anonymous: 0 kB
VmFlags: rd ex mr mw me de
7f0000005000-7f0000006000 r-xp 00000000 08:01 2 /usr/bin/some thing
Anonymous: 0 kB
"""


def test_only_unwritten_code_of_files_is_given_back() -> None:
    assert list(memory.unwritten_code(iter(SMAPS.splitlines()))) == [
        (0x7F0000000000, 0x7F0000001000),
        (0x7F0000005000, 0x7F0000006000),
    ]


def test_a_process_goes_on_after_it() -> None:
    memory.settle()
    assert sum(range(1000)) == 499500
