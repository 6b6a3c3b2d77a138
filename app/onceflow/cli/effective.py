"""The settings of a command: its arguments, the process environment and the settings file."""

from __future__ import annotations

import os
from pathlib import Path

from onceflow.settings import Settings, settings_file


def effective_settings(**arguments: object) -> Settings:
    """Load the settings of this process; an argument that is None was not given.

    Raises:
        ConfigError: a setting is wrong. The user corrects it.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return Settings.load(given, os.environ, settings_file(os.environ, Path.cwd()))
