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

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class HttpResponse:
    """What came back.

    Attributes:
        status: The HTTP status code. The body is not read.
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
    if isinstance(address, ipaddress.IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if wrapped is None and address in _NAT64:
            wrapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast


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
