"""Outgoing HTTP: one POST, to an address that was looked at first.

The host is resolved once and the connection goes to exactly the address that was
checked, so a name that resolves differently a moment later gains nothing. Redirects
are not followed, proxies from the environment are not used, and one deadline covers
sending and reading.
"""

import http.client
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from forge_pipeline.errors import WebhookError

# IPv6 networks whose addresses end with an IPv4 address: NAT64 (RFC 6052), and the deprecated IPv4-compatible form.
_ENDING_IN_IPV4 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: what it translates to, the network decides

# Where clouds hand credentials to whoever asks from inside: AWS, Azure, GCP and others; AWS over IPv6; AWS ECS; Azure
# WireServer, which has a public address; Alibaba; Oracle; GCP over IPv6. Never a webhook, whatever the recipe allows.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254", "fd00:ec2::254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192",
        "fd20:ce::254",
    )
)  # fmt: skip

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class HttpResponse:
    """What came back.

    Attributes:
        status: The HTTP status code. The body is not read, however long it is.
        retry_after: Seconds that the peer asks to wait, if it said so in seconds.
    """

    status: int
    retry_after: float | None = None


def post_json(
    url: str,
    payload: Any,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    allow_private: bool = False,
    require_https: bool = False,
    ca_bundle: str | None = None,
) -> HttpResponse:
    """POST `payload` as JSON (bytes are sent as they are).

    Args:
        url: ``http`` or ``https``; may hold secrets, so it stands in no message.
        payload: A JSON value, or the encoded body.
        timeout: Seconds for connecting, and again for the whole exchange; resolving the name is not timed.
        headers: Beside Content-Type.
        allow_private: Whether private, loopback and link-local addresses may be reached.
        require_https: Whether plain ``http`` is refused.
        ca_bundle: PEM file of the authorities to trust instead of the system's.

    Raises:
        WebhookError: The destination is refused; trying again will not help.
        OSError, http.client.HTTPException: It could not be reached, or did not answer in time.
    """
    parts = _split(url, require_https)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    body = payload if isinstance(payload, bytes) else json.dumps(payload, allow_nan=False).encode()
    connection = _connect(parts.scheme, host, port, _resolve(host, port, allow_private), timeout, ca_bundle)
    watchdog = threading.Timer(timeout, _abort, [connection])
    watchdog.daemon = True
    watchdog.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return HttpResponse(answer.status, _seconds(answer.getheader("Retry-After")))
    finally:
        watchdog.cancel()
        connection.close()


def is_public(address: Address) -> bool:
    """Whether `address`, and any IPv4 address wrapped in it, belongs to the public Internet."""
    wrapped = _wrapped(address)
    if wrapped is not None:
        return is_public(wrapped)
    if is_metadata_service(address) or (isinstance(address, ipaddress.IPv6Address) and address in _LOCAL_NAT64):
        return False
    return address.is_global and not address.is_multicast


def is_metadata_service(address: Address) -> bool:
    """Whether a cloud's machines ask for their credentials there."""
    return (_wrapped(address) or address) in _METADATA


def _wrapped(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a connection to this IPv6 address ends at, if there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if any(address in network for network in _ENDING_IN_IPV4) and int(address) > 1:  # :: and ::1 are their own
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _split(url: str, require_https: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WebhookError(f"the URL cannot be read: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WebhookError("the URL must begin with https:// or http:// and name a host")
    if require_https and parts.scheme != "https":
        raise WebhookError(f"the URL of {parts.hostname} is plain http, and require_https is set; use https")
    if parts.username is not None or parts.password is not None:
        raise WebhookError(f"the URL of {parts.hostname} holds a user name or password, which is not supported")
    return parts


def _resolve(host: str, port: int, allow_private: bool) -> list[Address]:
    """The host's addresses, each of which may be reached."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    for address in addresses:
        if is_metadata_service(address):
            raise WebhookError(f"{host} resolves to {address}, a cloud's metadata service, which is never called")
    refused = [address for address in addresses if not (allow_private or is_public(address))]
    if refused:
        raise WebhookError(
            f"{host} resolves to {refused[0]}, which is not a public address; "
            "set webhook.allow_private_destinations: true if that is meant"
        )
    return addresses


def _connect(
    scheme: str, host: str, port: int, addresses: list[Address], timeout: float, ca_bundle: str | None
) -> http.client.HTTPConnection:
    """A connection to the first of `addresses` that answers, speaking to `host`."""
    context = ssl.create_default_context(cafile=ca_bundle) if scheme == "https" else None
    failure: OSError = ConnectionError(f"{host} has no address")
    for address in addresses:
        try:
            raw = socket.create_connection((str(address), port), timeout=timeout)
        except OSError as error:
            failure = error
            continue
        try:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
            connection.sock = context.wrap_socket(raw, server_hostname=host) if context else raw
        except BaseException:
            raw.close()
            raise
        return connection
    raise failure


def _abort(connection: http.client.HTTPConnection) -> None:
    """End an exchange that trickles on past its deadline; its reader sees the end of the stream."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
