"""Where files that outlive a run are kept: Kafka's jars and the directories of local clusters.

Rules of this file: the place is chosen from the environment alone, nothing is created before it
is asked for, and a directory that another user could have prepared is refused.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onceflow.errors import ConfigError


def cache_directory() -> Path:
    """Create and return the user's cache directory.

    The first of ``$ONCEFLOW_CACHE``, ``$XDG_CACHE_HOME/onceflow``, ``$HOME/.cache/onceflow`` whose
    variable is set; without any of them a directory of this user below the temporary directory.

    Raises:
        ConfigError: the directory cannot be used; the message says what to set.
    """
    path = _chosen()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = path.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"the cache directory {path} cannot be created ({error.strerror}); "
            "set ONCEFLOW_CACHE to a directory that you may write to"
        ) from error
    if owner != os.getuid() and path.parent == Path(tempfile.gettempdir()):
        # Anybody may create names below the temporary directory, and code is run from the cache.
        raise ConfigError(
            f"the cache directory {path} belongs to user {owner}, not to {os.getuid()}; "
            "set ONCEFLOW_CACHE to a directory of your own"
        )
    return path


def _chosen() -> Path:
    for variable, below in (
        ("ONCEFLOW_CACHE", ""),
        ("XDG_CACHE_HOME", "onceflow"),
        ("HOME", ".cache/onceflow"),
    ):
        value = os.environ.get(variable, "")
        if value:
            return Path(value).absolute() / below
    return Path(tempfile.gettempdir()) / f"onceflow-{os.getuid()}"
