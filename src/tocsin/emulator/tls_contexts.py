"""The TLS configuration of the emulator's servers."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from tocsin.emulator.credentials import Files


def server_context(
    files: Files, *, http1: bool, requests_client_certificate: bool, fails_handshake: Callable[[], bool]
) -> ssl.SSLContext:
    """A server's TLS context: TLS 1.2 or newer, ALPN `h2`, and `http/1.1` if `http1` is set.

    `fails_handshake` is called once for each connection; if it returns True, the handshake fails.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.server)
    context.set_alpn_protocols(["h2", "http/1.1"] if http1 else ["h2"])
    if requests_client_certificate:
        # Apple requests a client certificate, and accepts a provider token instead.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(files.ca)

    def on_client_hello(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE if fails_handshake() else None

    # OpenSSL calls this in every handshake, whether or not the client sends a server name.
    context.sni_callback = on_client_hello
    return context
