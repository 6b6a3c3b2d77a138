"""The program of one supervised worker: ``python -m onceflow.supervisor.worker_process``.

It ties itself to its supervisor first, so that no later failure can leave it behind, and then
becomes an ordinary worker.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onceflow.errors import InvariantViolation, OnceflowError
from onceflow.supervisor.lifeline import watch_lifeline

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Arguments(argparse.Namespace):
    app_path: str
    part: int
    lifeline: int
    drain_bound_s: float
    log_level: str
    coordinator: str | None


def main(argv: Sequence[str]) -> int:
    """Run one worker until it ends; return its exit code."""
    parser = argparse.ArgumentParser(prog="onceflow.supervisor.worker_process")
    parser.add_argument("app_path")
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--drain-bound-s", type=float, required=True)
    parser.add_argument("--log-level", required=True)
    parser.add_argument("--coordinator")
    arguments = parser.parse_args(argv, _Arguments())
    watch_lifeline(arguments.lifeline, arguments.drain_bound_s)
    # Imported here, so that the lifeline is watched before the second that Faust's import takes.
    from onceflow.engine.worker import find_app, run  # noqa: PLC0415

    try:
        datadir = separate(find_app(arguments.app_path).conf, arguments.part)
        datadir.mkdir(parents=True, exist_ok=True)  # Faust makes the last part only
        return run(
            arguments.app_path,
            datadir=datadir,
            loglevel=arguments.log_level,
            coordinator=arguments.coordinator,
        )
    except (OnceflowError, InvariantViolation) as error:
        sys.stderr.write(f"onceflow worker {arguments.part}: {error}\n")
        return error.exit_code


def separate(conf: Any, part: int) -> Path:
    """Keep worker ``part`` out of the others' way; return the data directory that is its own.

    Args:
        conf: the app's Faust settings, whose web port is counted up by ``part``.
        part: number of the worker under its supervisor, from 0.
    """
    conf.web_port += part
    conf.canonical_url = f"http://{conf.web_host}:{conf.web_port}"
    return Path(conf.datadir) / f"worker-{part}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
