"""Where the client believes this service to be, as its addresses in answers must say.

So it is also known whether a page of another site had its reader's browser ask something here.

A proxy that ends TLS or moves the service below a path tells so in `Forwarded` (RFC 7239) or
`X-Forwarded-*`. Anybody could write these, so they count only from addresses that the settings name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from pacs.errors import BadQuery

Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,100}){1,10}")
_PAIR = re.compile(r'\s*(\w+)=("?)([^",;]*)\2\s*', re.ASCII)
_SCHEMES: Final = frozenset(["http", "https"])
_OURS: Final = frozenset(["same-origin", "none"])  # "none" is what somebody typed or clicked


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme and host, such as `https://pacs.example:8080`, and the path that a proxy adds."""

    url: str
    prefix: str = ""


def networks(text: str) -> tuple[Network, ...]:
    """Addresses such as `10.0.0.7` and networks such as `10.0.0.0/8`, by commas. Raises BadQuery."""
    try:
        return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise BadQuery("a trusted proxy is neither an address nor a network") from error


def origin_of(request: HTTPConnection, trusted: Sequence[Network]) -> Origin:
    """Where a request was sent to. A host that is none is not believed."""
    scheme, host, prefix = request.scope["scheme"], request.headers.get("host", ""), ""
    if _is_from(request, trusted):
        said = _forwarded(request)
        scheme = said["proto"] if said["proto"] in _SCHEMES else scheme
        host = said["host"] if _HOST.fullmatch(said["host"]) else host
        prefix = said["prefix"] if _PREFIX.fullmatch(said["prefix"]) else ""
    if not _HOST.fullmatch(host):
        address, port = request.scope.get("server") or ("localhost", None)
        host = f"{address}:{port}" if port else str(address)
    return Origin(f"{scheme}://{host}", prefix)


def is_from_another_site(request: HTTPConnection, trusted: Sequence[Network]) -> bool:
    """Whether a page that is not ours had its reader's browser ask this.

    Browsers say so in Sec-Fetch-Site (Fetch Metadata); over plain HTTP beyond this machine they
    name the page's origin alone (RFC 6454 7). Who is no browser says neither.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in _OURS
    page = request.headers.get("origin")
    return page is not None and _host_of(page) != _host_of(origin_of(request, trusted).url)


def names_us(request: HTTPConnection, hosts: frozenset[str], trusted: Sequence[Network]) -> bool:
    """Whether a request is for an address, for this machine itself, or for a name among hosts.

    What a trusted proxy passes on, it has judged; who names no host is no browser.
    """
    if _is_from(request, trusted):
        return True
    try:
        name = (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").rstrip(".")
    except ValueError:
        return False
    return not name or name in hosts or _is_local(name)


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""


def _is_from(request: HTTPConnection, trusted: Sequence[Network]) -> bool:
    if not trusted or request.client is None:
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    return any(address in network for network in trusted)


def _forwarded(request: HTTPConnection) -> dict[str, str]:
    """What the nearest proxy says; each adds to the end, so what stands before may be a stranger's."""
    said = {
        name: _last(request.headers.get(f"x-forwarded-{name}", ""))
        for name in ("proto", "host", "prefix")
    }
    standard = _last(request.headers.get("forwarded", ""))
    for pair in standard.split(";"):
        found = _PAIR.fullmatch(pair)
        if found and found[1].lower() in ("proto", "host"):
            said[found[1].lower()] = found[3]
    said["proto"] = said["proto"].lower()
    said["prefix"] = said["prefix"].rstrip("/")
    return said


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()
