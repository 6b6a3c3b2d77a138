"""How a group is reached: addresses, its name, TLS files and a token; and what its errors become.

Imports of the group's transport stand in the functions, so that a command line which only shows
its help stays quick.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onceflow.errors import (
    ConfigError,
    DataAtRisk,
    InvariantViolation,
    OnceflowError,
    StorageFailed,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from onceflow.settings import Settings
    from onceflow_consensus.client import ClientOptions
    from onceflow_consensus.transport.tls import TlsFiles

DEFAULT_CLUSTER = "onceflow"

TLS_FILES = ("tls.crt", "tls.key", "ca.crt")
"""Names in a folder of TLS files, as Kubernetes and cert-manager give them."""


def client_options(settings: Settings, timeout_s: float) -> ClientOptions | None:
    """Return how the group that the settings name is reached; None if they name none.

    Args:
        settings: those of a worker or command.
        timeout_s: how long one call may wait for an answer.

    Raises:
        ConfigError: an address is malformed, or the token's file cannot be used.
    """
    from onceflow_consensus.client import ClientOptions  # noqa: PLC0415 - see above
    from onceflow_consensus.transport.addresses import parse_address  # noqa: PLC0415

    if settings.coordinator is None:
        return None
    token_file, folder = settings.coordinator_token_file, settings.coordinator_tls
    with told():
        return ClientOptions(
            cluster_id=settings.coordinator_cluster,
            addresses=[parse_address(each.strip()) for each in settings.coordinator.split(",")],
            token=read_token(None if token_file is None else Path(token_file)),
            tls=tls_files(None if folder is None else Path(folder)),
            timeout_s=timeout_s,
        )


def tls_files(folder: Path | None) -> TlsFiles | None:
    """Return the TLS files of a folder, None for none; they are read where they are used."""
    from onceflow_consensus.transport.tls import TlsFiles  # noqa: PLC0415 - see above

    if folder is None:
        return None
    certificate, key, authority = (folder / name for name in TLS_FILES)
    return TlsFiles(certificate, key, authority)


def read_token(file: Path | None) -> str:
    """Return the token in a file, empty for no file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if file is None:
        return ""
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The token file {file} cannot be read ({error}). Nothing was done. Correct the path, "
            "or the file's permissions."
        ) from error
    if not token:
        raise ConfigError(f"The token file {file} is empty. Nothing was done. Write a token in it.")
    return token


@contextmanager
def told() -> Generator[None]:
    """Turn errors of the replicated group into ours, by the reaction that they want."""
    from onceflow_consensus import errors  # noqa: PLC0415 - see above

    try:
        yield
    except (errors.InvalidOptions, errors.ConfChangeRefused) as error:
        raise ConfigError(str(error)) from error
    except errors.StorageLocked as error:
        raise ConfigError(str(error)) from error
    except (errors.StorageCorrupt, errors.StorageUnknown, errors.SnapshotUnreadable) as error:
        raise DataAtRisk(str(error)) from error
    except errors.StorageFailed as error:
        raise StorageFailed(str(error)) from error
    except errors.GroupUnreachable as error:
        raise Unreachable(str(error)) from error
    except errors.RequestRefused as error:
        raise ConfigError(str(error)) from error
    except errors.ConsensusError as error:
        raise OnceflowError(str(error)) from error
    except errors.InvariantViolation as error:
        raise InvariantViolation(str(error)) from error
