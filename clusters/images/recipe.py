"""What is in which image: the packages, what of their files is not needed, and what is added. Nothing here is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

NOBODY = 65532
"""User and group that the programs run as, by number, so that a kubelet can see that it is not root."""

STATE = "var/lib/isthmus"
"""Where programs keep state: a volume is mounted here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A layer of Debian packages. Paths are relative to the root; patterns are fnmatch's: `*` crosses folders."""

    packages: tuple[str, ...]
    without: frozenset[str]
    """Packages that are depended on and not needed at run time."""
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """What stays of `dropped`."""
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Empty folders: mode, and user and group in one."""
    executables: bool = False
    """Whether only the programs in `kept` stay of /usr/bin and /usr/sbin."""

    def keeps(self, path: str) -> bool:
        """Whether the file of a package at this path belongs in the image."""
        if any(fnmatchcase(path, pattern) for pattern in self.kept):
            return True
        if self.executables and path.startswith(("usr/bin/", "usr/sbin/")):
            return False
        return not any(fnmatchcase(path, pattern) for pattern in (*_DOCUMENTS, *self.dropped))


_DOCUMENTS = (
    # What is read by people; the licences stay (usr/share/doc/*/copyright is kept by name).
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/lintian/*",
    "usr/share/bug/*",
    "usr/share/bash-completion/*",
    "usr/share/doc-base/*",
    "usr/share/doc/*",
    "usr/share/apport/*",
    "etc/init.d/*",
    "etc/cron*",
    "etc/default/*",
    "usr/lib/systemd/*",
    "usr/lib/tmpfiles.d/*",
    # Tables of character sets that only iconv reads.
    "usr/lib/*/gconv/*",
)

_LICENCES = ("usr/share/doc/*/copyright", "usr/share/doc/*/README.Debian")

_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\n"
    f"isthmus:x:{NOBODY}:{NOBODY}:Isthmus:/{STATE}:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nisthmus:x:{NOBODY}:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

_FOLDERS = {"tmp": (0o1777, 0), "run": (0o755, 0), "proc": (0o755, 0), "sys": (0o755, 0), "dev": (0o755, 0)}

MAINTENANCE = frozenset(
    # Needed to install packages, and nothing is installed in an image.
    ("debconf", "dpkg", "perl-base", "media-types", "mime-support", "mailcap", "install-info", "libc-bin", "tzdata")
) | {"gcc-12-base", "gcc-13-base", "gcc-14-base", "readline-common", "debianutils", "init-system-helpers"}


def python_system(python: str) -> System:
    """What our programs run on: Python `python` (such as "3.11"), nft, ip and the roots of the public certificates."""
    library = f"usr/lib/python{python}"
    return System(
        packages=(
            f"python{python}-minimal",
            f"libpython{python}-stdlib",
            "nftables",
            "iproute2",
            "ca-certificates",
            "libgcc-s1",  # wheels want these two
            "libstdc++6",
        ),
        # Each of these serves one module of the standard library that nothing of ours imports: they go together.
        without=MAINTENANCE
        | {
            "openssl",
            "libdb5.3",
            "libnsl2",
            "libreadline8",
            "libreadline8t64",
            "libncursesw6",
            "libtirpc3",
            "libtirpc3t64",
        }
        | {"libcap2-bin", "libdb5.3t64"},
        executables=True,
        kept=(f"usr/bin/python{python}", "usr/sbin/nft", "usr/bin/ip", "usr/sbin/ip", *_LICENCES),
        dropped=(
            f"{library}/lib-dynload/_dbm.*",
            f"{library}/lib-dynload/nis.*",
            f"{library}/lib-dynload/readline.*",
            f"{library}/lib-dynload/_curses*",
            f"{library}/lib-dynload/_test*",
            f"{library}/lib-dynload/xxlimited*",
            f"{library}/*/tests/*",
            f"{library}/test/*",
            f"{library}/ensurepip/*",
            f"{library}/idlelib/*",
            f"{library}/lib2to3/*",
            f"{library}/tkinter/*",
            f"{library}/turtle*",
            f"{library}/pydoc_data/*",
            f"{library}/venv/*",
            f"{library}/__pycache__/*",
            f"{library}/sitecustomize.py",
            f"{library}/_sysconfigdata__*_d_*",
            f"etc/python{python}/*",
            "usr/share/python3/*",
            "usr/share/gcc/*",
            "usr/share/gdb/*",
            "usr/share/pixmaps/*",
            "usr/share/applications/*",
            "usr/share/binfmts/*",
            "usr/share/ca-certificates/*",
            "usr/lib/*/tc/*",
            "usr/lib/tc/*",
            "usr/share/tc/*",
            "etc/ca-certificates*",
            "etc/iproute2/bpf_pinning",
            "etc/gss/*",
        ),
        files=_ACCOUNTS,
        links={"usr/bin/python3": f"python{python}", "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt"},
        folders=_FOLDERS | {STATE: (0o755, NOBODY), "etc/isthmus": (0o755, 0)},
    )


def tools_system(*packages: str, links: Mapping[str, str]) -> System:
    """A shell with what scripts expect, and the tools of these packages."""
    return System(
        packages=("dash", "coreutils", "grep", "sed", "mawk", *packages),
        without=MAINTENANCE,
        kept=_LICENCES,
        files=_ACCOUNTS,
        links={"usr/bin/awk": "mawk", **links},
        folders=_FOLDERS,
    )


UNPACKAGED = (
    # Of the wheels: what builds, tests and types others' code, and notes of the installation that are not true here.
    "setuptools*",
    "_distutils_hack/*",
    "distutils-precedence.pth",
    "pkg_resources/*",
    "bin/*",
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.c",
    "*.h",
    "*/tests/*",
    "*/testing/*.py",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
)
"""What of an installation of wheels stays out of the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One image: its name, which system it has, which of our packages, and what it runs when nothing is said."""

    reference: str
    """Name and tag; `{version}` is ours."""
    title: str
    system: System | None = None
    """None: Python's, with our dependencies."""
    code: tuple[str, ...] = ()
    """Our packages, a layer for each entry; words of one entry go together."""
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    user: str = f"{NOBODY}:{NOBODY}"


PROGRAMS = "federation discovery gateway sidecar"

VARIANTS: Mapping[str, Variant] = {
    "isthmus": Variant(
        reference="isthmus:{version}",
        title="Isthmus: registry, agent, gateway, sidecar and fedctl",
        code=(PROGRAMS,),
        command=("fedctl", "--help"),
    ),
    # Workloads that say who answered: of tests and demos alone, never of an installation.
    "isthmus-test": Variant(
        reference="isthmus:{version}-test",
        title="Isthmus with the workloads of its tests",
        code=(PROGRAMS, "clusters"),
        command=("fedctl", "--help"),
    ),
    # These two stand in for the images that the conformance suite of the Multi-Cluster Services API starts pods from.
    "netshoot": Variant(
        reference="nicolaka/netshoot:v0.15",
        title="stand-in with sh, nslookup, dig and nc, made from Debian packages",
        system=tools_system(
            "bind9-dnsutils",
            "netcat-openbsd",
            links={"usr/bin/nc": "nc.openbsd"},
        ),
        command=("/bin/sh",),
        user="0:0",
    ),
    "socat": Variant(
        reference="alpine/socat:1.7.4.4",
        title="stand-in with sh and socat, made from Debian packages",
        system=tools_system("socat", links={}),
        entrypoint=("socat",),
        user="0:0",
    ),
}
