"""Certificates for tests, made by ``openssl``: authorities, and what they sign for 127.0.0.1."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from onceflow_consensus.transport.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


class Authority:
    """Signs certificates; its own lies in ``directory`` beside them."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self.certificate = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip

    def files(self, name: str, trusts: Authority | None = None) -> TlsFiles:
        """A certificate with its key, for who trusts this authority or another one."""
        key = self._directory / f"{self._name}-{name}.key"
        request = key.with_suffix(".csr")
        certificate = key.with_suffix(".pem")
        extensions = key.with_suffix(".ext")
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request,
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
            "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return TlsFiles(certificate, key, (trusts or self).certificate)
