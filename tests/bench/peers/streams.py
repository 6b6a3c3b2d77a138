"""Kafka Streams: a small Java program, built once by Maven into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.places import CACHE, PEERS, NotRun, fingerprint
from onceflow.errors import ConfigError
from onceflow.localkafka.java import find_java, java_home

SOURCES = PEERS / "streams"
BUILD_S = 600


def prepare():
    """Build the program, once for each content of its sources; returns Java and the class path.

    Raises:
        NotRun: there is no JDK or Maven, or the build failed.
    """
    try:
        java = find_java()
    except ConfigError as error:
        raise NotRun(str(error)) from error
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    built = CACHE / f"streams-{fingerprint(*(path.read_bytes() for path in files))}"
    if not built.is_dir():
        _build(java, built)
    return java, f"{built}/target/streams-1.jar:{built}/libs/*"


def command(prepared, job):
    """The command line of the contestant."""
    java, classpath = prepared
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    where = [job.bootstrap, job.source, job.output, job.group]
    arguments = [*where, str(job.commit_ms), str(job.directory / "state")]
    return [str(java), "-Xmx2g", quiet, "-cp", classpath, "bench.WindowedTotals", *arguments]


def _build(java, built):
    maven = shutil.which("mvn")
    if maven is None:
        raise NotRun("Maven is needed to build the program, and mvn is not on PATH")
    home = java_home(java)
    if not (home / "bin" / "javac").exists():
        raise NotRun(f"{home} has no javac: a JDK is needed to build the program")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as name:
        work = Path(name) / "streams"
        shutil.copytree(SOURCES, work)
        goals = ["package", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        try:
            outcome = subprocess.run(
                [maven, "-q", "-B", *goals, f"-DoutputDirectory={work}/libs"],
                cwd=work,
                env={**os.environ, "JAVA_HOME": str(home)},
                capture_output=True,
                text=True,
                timeout=BUILD_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NotRun(f"Maven did not build the program within {BUILD_S} s") from error
        if outcome.returncode:
            said = [line for line in outcome.stdout.splitlines() if "ERROR" in line][:2]
            raise NotRun(f"Maven could not build the program: {' '.join(said)}")
        work.rename(built)
