"""Certificates of an authority that lives as long as the tests, made by the `openssl` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs.dimse.tls import Credentials


@dataclass(frozen=True)
class Authority:
    """One authority, and the folder with all that it signed."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def credentials(self, name: str, *alternative: str, days: int = 2) -> Credentials:
        """A new key and its certificate, for a common name and such as `DNS:localhost`."""
        stem = self.folder / f"{name.replace(' ', '_')}-{len(list(self.folder.iterdir()))}"
        key, request, certificate = (stem.with_suffix(end) for end in (".key", ".csr", ".pem"))
        extensions = stem.with_suffix(".ext")
        names = f"subjectAltName={','.join(alternative)}\n" if alternative else ""
        extensions.write_text(f"basicConstraints=CA:FALSE\n{names}")
        _openssl(
            *("req", "-newkey", "rsa:2048", "-noenc", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-out", certificate, "-days", days),
            *("-CA", self.certificate, "-CAkey", self.folder / "authority.key"),
            *("-CAcreateserial", "-extfile", extensions),
        )
        return Credentials(certificate, key, self.certificate)


def authority(folder: Path) -> Authority:
    """A new authority. Without the `openssl` command the test is skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed: apt-get install openssl")
    folder.mkdir(parents=True)
    made = Authority(folder)
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=Authority of tests"),
        *("-days", 2, "-keyout", folder / "authority.key", "-out", made.certificate),
    )
    return made


def _openssl(*words: object) -> None:
    subprocess.run(
        ["openssl", *map(str, words)],  # noqa: S607 - wherever it is installed
        check=True,
        capture_output=True,
    )


def old_context(trusted: Authority, *, ciphers: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client of yesteryear: it offers one version of TLS, and ciphers that are weak today."""
    context = ssl.create_default_context(cafile=str(trusted.certificate))
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that old is the point
        context.minimum_version = version
        context.maximum_version = version
    return context
