"""The settings of DICOM TLS: what would refuse everyone, or trust everyone, does not start."""

from __future__ import annotations

import pytest

from pacs.config import load
from pacs.errors import BadQuery

FILES = {"dimse.tls_port": 2762, "dimse.tls_certificate": "a.pem", "dimse.tls_key": "a.key"}


def test_tls_is_off_by_default_and_requires_certificates_once_it_is_on() -> None:
    config, _ = load(environment={})
    assert config.dimse.tls_port is None
    assert config.dimse.tls_client_certificate == "require"


@pytest.mark.parametrize("missing", ["dimse.tls_certificate", "dimse.tls_key"])
def test_a_port_needs_a_certificate_and_its_key(missing: str) -> None:
    settings = {key: value for key, value in FILES.items() if key != missing}
    with pytest.raises(BadQuery, match=missing.replace(".", r"\.")):
        load(environment={}, overrides={**settings, "dimse.tls_ca": "ca.pem"})


@pytest.mark.parametrize("demand", ["request", "require"])
def test_callers_certificates_need_an_authority(demand: str) -> None:
    demanded = {**FILES, "dimse.tls_client_certificate": demand}
    with pytest.raises(BadQuery, match=r"dimse\.tls_ca"):
        load(environment={}, overrides=demanded)
    config, _ = load(environment={}, overrides={**demanded, "dimse.tls_ca": "ca.pem"})
    assert config.dimse.tls_port == 2762


def test_callers_without_certificates_need_none() -> None:
    wanted = {**FILES, "dimse.tls_client_certificate": "none"}
    assert load(environment={}, overrides=wanted)[0].dimse.tls_ca is None


@pytest.mark.parametrize(
    ("key", "value"), [("tls_profile", "sslv3"), ("unknown_callers", "query"), ("tls_port", 65536)]
)
def test_what_is_not_offered_is_refused(key: str, value: object) -> None:
    with pytest.raises(BadQuery, match=f"dimse.{key}"):
        load(environment={}, overrides={f"dimse.{key}": value})
