"""The certificate with which the API speaks TLS: read at the start, and again whenever its files change.

Source: RFC 9325 (recommendations for TLS); RFC 8446.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
from pathlib import Path

import structlog

from tocsin.secret_files import readable_by_others

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int, int], ...]


class TlsError(Exception):
    """The certificate cannot be used; the message names the setting, the reason and the remedy."""


class ServerTls:
    """The context for new connections. Those that are open keep theirs.

    Args:
        certificate: the server's certificate and those between it and its authority (PEM).
        key: its private key (PEM, not encrypted), which only the server's user may read.

    Raises:
        TlsError: they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._seen = self._stamp()
        self._refused: _Stamp = ()
        """The files that could not be used: the log is told once."""
        self.context = self._load()

    async def refresh(self) -> None:
        """Read the files again where they have changed. Where they cannot be used, the old ones stay in use."""
        await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            context = self._load()
        except TlsError as error:
            # One of the two may have been replaced, and the other not yet: so they are tried each time.
            if stamp != self._refused:
                log.error("the new TLS certificate cannot be used; the old one stays in use", error=str(error))
                self._refused = stamp
            return
        self.context, self._seen, self._refused = context, stamp, ()
        log.info("the TLS certificate was read again", certificate=str(self._certificate))

    def _stamp(self) -> _Stamp:
        """What changes when the files do; symbolic links are followed."""
        stamp = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
            except OSError:
                stamp.append((0, 0, 0, 0))
            else:
                stamp.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
        return tuple(stamp)

    def _load(self) -> ssl.SSLContext:
        self._check_files()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client could make the server do the costly half of a handshake again and again.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=self._refuse_encrypted)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not usable"
            raise TlsError(
                f"server.tls_certificate {self._certificate}, server.tls_key {self._key}: {reason}; name a certificate"
                " and its private key, both PEM"
            ) from None
        return context

    def _check_files(self) -> None:
        for setting, path in (("tls_certificate", self._certificate), ("tls_key", self._key)):
            try:
                with path.open("rb") as file:
                    status = os.fstat(file.fileno())
            except OSError as error:
                raise TlsError(f"server.{setting} {path}: {error.strerror}; name another file") from None
            if not stat.S_ISREG(status.st_mode):
                raise TlsError(f"server.{setting} {path}: not a file; name another one")
            if setting == "tls_key" and (wrong := readable_by_others(path, status)) is not None:
                raise TlsError(f"server.{setting} {path}: {wrong}")

    def _refuse_encrypted(self) -> str:
        # Without this, OpenSSL would ask for a password on the terminal.
        raise TlsError(
            f"server.tls_key {self._key}: the private key is encrypted; store it without a password:"
            " openssl pkey -in KEY -out NEW"
        )
