"""The program of one supervised worker, up to where the engine takes over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from onceflow.supervisor.child import WORKER_PROGRAM
from onceflow.supervisor.worker_process import separate


def test_workers_share_neither_web_port_nor_data_directory():
    conf = SimpleNamespace(web_host="localhost", web_port=6066, datadir=Path("shop-data"))
    assert separate(conf, 3) == Path("shop-data/worker-3")
    assert conf.web_port == 6069
    assert conf.canonical_url == "http://localhost:6069"


def test_an_application_that_cannot_be_imported_is_a_configuration_error(tmp_path: Path):
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [
                *(WORKER_PROGRAM),
                "no_such_module:app",
                "--part=0",
                f"--lifeline={reading}",
                "--drain-bound-s=1",
                "--log-level=info",
            ],
            cwd=tmp_path,
            pass_fds=(reading,),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 2, done.stderr
    assert "no_such_module" in done.stderr
    assert sys.executable == WORKER_PROGRAM[0]
