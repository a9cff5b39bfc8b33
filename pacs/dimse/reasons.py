"""Why an association did not come about, or ended, in plain words for whoever must mend it.

The words complete a sentence that names the peer, so they speak of it as "it". They hold nothing
of what was sent, and so no patient's data.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping
from typing import Final

UNKNOWN_HOST: Final = "its host name is not known"
NO_ANSWER: Final = "it did not answer the association request in time"
FAILED: Final = "the connection failed"
BROKEN: Final = "the line broke"
BROKEN_IN_NEGOTIATION: Final = "the line broke during negotiation"
ABORTED: Final = "it aborted the association"
NOTHING_IN_COMMON: Final = "it accepts none of these SOP classes and transfer syntaxes"

_CONNECTING: Final[Mapping[int, str]] = {
    errno.ECONNREFUSED: "nobody listens at that port",
    errno.ETIMEDOUT: "its host does not answer",
    errno.EHOSTUNREACH: "its host cannot be reached from here",
    errno.ENETUNREACH: "its network cannot be reached from here",
    errno.ECONNRESET: BROKEN_IN_NEGOTIATION,
    errno.EPIPE: BROKEN_IN_NEGOTIATION,
    errno.ETIME: "it did not finish the TLS handshake in time",
}
# X509_V_ERR_… of OpenSSL.
_CERTIFICATES: Final[Mapping[int, str]] = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    **dict.fromkeys((18, 19, 20, 21), "its certificate is of an authority that we do not trust"),
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}
_NO_TLS: Final = "it does not speak TLS there"
_OLD: Final = "there is no version of TLS that both take"
_NO_CIPHER: Final = "there is no cipher suite that both take"
_OURS: Final = "it does not accept our certificate"
# Reasons of OpenSSL: its own, and those that the alert of the other side gives it.
_TLS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"), _NO_TLS),
    **dict.fromkeys(
        ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION"), _OLD
    ),
    **dict.fromkeys(("NO_SHARED_CIPHER", "SSLV3_ALERT_HANDSHAKE_FAILURE"), _NO_CIPHER),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of ours",
    **dict.fromkeys(
        (
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "TLSV1_ALERT_UNKNOWN_CA",
        ),
        _OURS,
    ),
}
# Source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 9.3.4).
_REFUSALS: Final[Mapping[tuple[int, int], str]] = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title",
    (1, 7): "it is not called by this AE title",
    (2, 1): "it gives no reason",
    (2, 2): "it does not know this version of the protocol",
    (3, 1): "it is busy",
    (3, 2): "it has as many associations as it takes",
}


def of_connection(error: OSError | EOFError) -> str:
    """Why a connection could not be made, or not be made secure."""
    if isinstance(error, EOFError | ssl.SSLEOFError):
        return BROKEN_IN_NEGOTIATION
    if isinstance(error, ssl.SSLError):
        return of_tls(error)
    default = _CONNECTING[errno.ETIMEDOUT] if isinstance(error, TimeoutError) else FAILED
    return _CONNECTING.get(error.errno or 0, default)


def of_tls(error: ssl.SSLError) -> str:
    """Which rule of TLS stood in the way."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(error.verify_code, "its certificate is not valid")
    return _TLS.get(error.reason or "", "the TLS handshake failed")


def of_loss(error: OSError | EOFError, *, is_established: bool) -> str:
    """Why an association ended without a word; a refusal of TLS 1.3 comes as late as that."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return of_tls(error)
    return BROKEN if is_established else BROKEN_IN_NEGOTIATION


def of_breach(rule: str) -> str:
    """Which rule of PS3.8 was broken, so that we aborted."""
    return f"it broke the protocol: {rule}"


def of_rejection(source: int, diagnostic: int) -> str:
    """Why an A-ASSOCIATE-RJ says that there is no association (PS3.8 9.3.4)."""
    return f"refused: {_REFUSALS.get((source, diagnostic), 'it gives a reason of its own')}"
