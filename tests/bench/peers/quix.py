"""Quix Streams: an environment of its own, because it pins another confluent-kafka than ours."""

from __future__ import annotations

import shutil
import subprocess
import sys

from bench.places import CACHE, PEERS, NotRun

VERSION = "3.28.1"
INSTALL_S = 600


def prepare():
    """Install Quix Streams into the cache, once; returns the Python that has it.

    Raises:
        NotRun: it could not be installed.
    """
    directory = CACHE / f"quix-{VERSION}"
    python = directory / "bin" / "python"
    stamp = directory / "installed"
    if stamp.exists():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(directory)])
    quiet = ["--quiet", "--disable-pip-version-check"]
    _run([str(python), "-m", "pip", "install", *quiet, f"quixstreams=={VERSION}"])
    stamp.touch()
    return python


def command(python, job):
    """The command line of the contestant."""
    program = str(PEERS / "quix_program.py")
    commit_s = str(job.commit_ms / 1000)
    where = [job.bootstrap, job.source, job.output, job.group]
    return [str(python), program, *where, commit_s, str(job.directory / "state")]


def _run(arguments):
    try:
        outcome = subprocess.run(
            arguments, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRun(f"quixstreams {VERSION} was not installed: {error}") from error
    if outcome.returncode:
        last = (outcome.stdout + outcome.stderr).strip().splitlines()[-1:]
        raise NotRun(f"quixstreams {VERSION} was not installed: {''.join(last)}")
