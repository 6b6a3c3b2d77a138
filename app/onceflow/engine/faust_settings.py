"""Which of Faust's settings somebody set, and what they become here.

A setting counts as set if it stands in the app's arguments, in its configuration source or in the
environment, or if its value was changed afterwards: a default that merely differs between Faust
and this engine is no wish. What each becomes is a table in the guide ``faust-settings.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from faust.types import AppT


def is_explicit(app: AppT, name: str) -> bool:
    """Return whether somebody set Faust's setting ``name``."""
    faust_app = cast("Any", app)
    conf = faust_app.conf
    param = conf.SETTINGS[name]
    _, arguments = faust_app._default_options  # noqa: SLF001 - Faust's own record of them
    if arguments.get(name) is not None:
        return True
    source = faust_app._config_source  # noqa: SLF001
    if source and faust_app._load_settings_from_source(source, silent=True).get(name) is not None:  # noqa: SLF001
        return True
    if param.env_name is not None and conf.getenv(param.env_name) is not None:
        return True
    return param.default is not None and conf.__dict__.get(param.storage_name) != param.default
