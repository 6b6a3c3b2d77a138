"""etcd and its load generator: Debian's packages, unpacked into the cache, never installed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.places import TESTS, NotRun, fingerprint

CACHE = TESTS.parent / ".cache" / "bench-consensus"
PACKAGES = ("etcd-server", "nghttp2-client", "libnghttp2-14", "libev4", "libjemalloc2")
"""The two programs, and those libraries of h2load that a small installation lacks."""

FETCH_S = 300
IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class Programs:
    """Where the programs are; ``libraries`` goes into LD_LIBRARY_PATH of h2load."""

    etcd: Path
    h2load: Path
    libraries: str
    version: str

    @property
    def environ(self):
        """Variables for h2load."""
        return {**os.environ, "LD_LIBRARY_PATH": self.libraries}


def file_system(directory):
    """The kind of file system that a directory lies on."""
    done = subprocess.run(
        ["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def require_disk(directory):
    """Refuse a file system without a disk: a sync there costs nothing."""
    if (kind := file_system(directory)) in IN_MEMORY:
        raise NotRun(f"{directory} is a {kind}, where a sync costs nothing; use a real disk")


def fetch():
    """Unpack the packages once; returns where the programs are."""
    root = CACHE / f"debian-{fingerprint(*(name.encode() for name in PACKAGES))}"
    if not root.exists():
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise NotRun(f"{tool} is missing; etcd comes from Debian's packages")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as work:
            _unpack(Path(work) / "packages", Path(work) / "root")
            (Path(work) / "root").rename(root)
    libraries = ":".join(str(each) for each in sorted(root.glob("usr/lib/*-linux-gnu*")))
    etcd = root / "usr/bin/etcd"
    version = _output([str(etcd), "--version"], dict(os.environ)).split()[2]
    found = Programs(etcd, root / "usr/bin/h2load", libraries, version)
    _output([str(found.h2load), "--version"], found.environ)
    return found


def _output(command, environ):
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(f"{Path(command[0]).name} does not start: {done.stderr.strip()[-200:]}")
    return done.stdout


def _unpack(packages, root):
    packages.mkdir()
    root.mkdir()
    download = functools.partial(_apt, ["apt-get", "-q", "download", *PACKAGES], packages)
    if (error := download()) and os.geteuid() == 0:
        # A new installation has no lists of packages.
        error = _apt(["apt-get", "-q", "update"], packages) or download()
    if error:
        why = "" if os.geteuid() == 0 else " (only root may run apt-get update first)"
        raise NotRun(f"apt-get cannot download {PACKAGES[0]}{why}: {error}")
    for package in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)


def _apt(command, directory):
    """Run apt-get; returns the end of what it complained about, empty if it did its work."""
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=FETCH_S, check=False
    )
    return (done.stderr.strip()[-200:] or "no reason given") if done.returncode else ""
