"""Kafka's jars: fetched once by Maven into the user's cache, checked against pinned checksums.

The list ``jars.sha256`` beside this file names every jar that ``pom.xml`` resolves to. A directory
of jars appears in the cache only complete and checked, by one rename; the list is written beside
the jars as the record of what was fetched, and the jars are checked against it at every start.
After the first run nothing is fetched. ``KAFKA_HOME`` names an unpacked distribution to be used in
place of all this.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.resources
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.errors import ConfigError, Unreachable
from onceflow.limits import MAVEN_S
from onceflow.localkafka.cache import cache_directory
from onceflow.localkafka.java import java_home

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_MANIFEST = "jars.sha256"


def classpath(java: Path, progress: Callable[[str], None]) -> str:
    """Return Java's class path of a broker, fetching the jars where they are not cached.

    Args:
        java: the Java that Maven is to run on.
        progress: is told before a step that takes long.

    Raises:
        ConfigError: Maven is missing, ``KAFKA_HOME`` is no distribution, or a cached jar is not
            what was fetched; the message says what to do.
        Unreachable: Maven could not fetch; check the network, then start again.
    """
    home = os.environ.get("KAFKA_HOME", "")
    if home:
        return _distribution(Path(home))
    pinned = pinned_checksums()
    root = cache_directory() / "kafka"
    root.mkdir(exist_ok=True)
    directory = root / f"jars-{_fingerprint()}"
    if not directory.is_dir():
        with _locked(root / "jars.lock"):
            # Another process may have fetched while this one waited for the lock.
            if not directory.is_dir():
                progress("fetching Apache Kafka 4.3.0 with Maven (44 MB, only the first time)")
                _fetch(java, directory, pinned)
    verify(directory, parse_checksums((directory / _MANIFEST).read_text()))
    return f"{directory}/*"


def pinned_checksums() -> dict[str, str]:
    """SHA-256 in hexadecimal by jar, as shipped with this package."""
    return parse_checksums(_package_data(_MANIFEST).decode())


def parse_checksums(text: str) -> dict[str, str]:
    """Read lines of ``sha256sum``: the checksum, two blanks, the file's name."""
    return {
        name: checksum
        for checksum, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, flags=re.MULTILINE)
    }


def verify(directory: Path, checksums: dict[str, str]) -> None:
    """Check that ``directory`` has exactly the jars of ``checksums``, unchanged.

    Raises:
        ConfigError: a jar is missing, added or changed. Nothing was started; the message says how
            to fetch them again.
    """
    present = {path.name: path for path in directory.glob("*.jar")}
    wrong = sorted(present.keys() ^ checksums.keys())
    for name in sorted(present.keys() & checksums.keys()):
        with present[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksums[name]:
                wrong.append(name)
    if wrong:
        raise ConfigError(
            f"Kafka's jars in {directory} are not those that were pinned: {', '.join(wrong)}. "
            f"No broker was started. Remove them with 'rm -r {directory}', and the next start "
            "fetches them again"
        )


def _fetch(java: Path, directory: Path, pinned: dict[str, str]) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigError(
            "Maven is needed once, to fetch Apache Kafka, and 'mvn' is not on PATH. Install it "
            "with 'apt-get install maven', or set KAFKA_HOME to an unpacked Kafka distribution, or "
            "set ONCEFLOW_BROKER to the address of a running Kafka"
        )
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetching-") as work_name:
        work = Path(work_name)
        (work / "pom.xml").write_bytes(_package_data("pom.xml"))
        jars = work / "jars"
        command = [maven, "-q", "-B", "-f", str(work / "pom.xml"), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        _run_maven(command, java)
        verify(jars, pinned)
        (jars / _MANIFEST).write_bytes(_package_data(_MANIFEST))
        jars.rename(directory)


def _run_maven(command: list[str], java: Path) -> None:
    try:
        outcome = subprocess.run(
            command,
            env={**os.environ, "JAVA_HOME": str(java_home(java))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAVEN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"Maven did not fetch Apache Kafka within {MAVEN_S} s; nothing was started. Check the "
            "network, then start again"
        ) from error
    if outcome.returncode:
        lines = (outcome.stdout + outcome.stderr).strip().splitlines()
        shown = "\n".join(lines[:10])
        raise Unreachable(
            f"Maven could not fetch Apache Kafka; nothing was started. It said:\n{shown}\nCheck "
            "the network and Maven's settings, then start again, or set KAFKA_HOME to an unpacked "
            "Kafka distribution"
        )


def _distribution(home: Path) -> str:
    libraries = home / "libs"
    if not any(libraries.glob("kafka_*.jar")):
        raise ConfigError(
            f"KAFKA_HOME is {home}, but {libraries} has no kafka_*.jar. Set it to an unpacked "
            "Kafka distribution, or unset it"
        )
    return f"{libraries}/*"


def _fingerprint() -> str:
    content = _package_data("pom.xml") + _package_data(_MANIFEST)
    return hashlib.sha256(content).hexdigest()[:12]


def _package_data(name: str) -> bytes:
    return importlib.resources.files("onceflow.localkafka").joinpath(name).read_bytes()


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
