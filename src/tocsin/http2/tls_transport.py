"""TLS over a socket, for a client that must know what has been handed to the socket, and decide about the rest.

asyncio's and uvloop's transports keep what the socket has not taken, and write it as soon as they can: also after the
process was suspended for a minute, before any code of ours runs. Here the rest is kept by this module. It asks the
protocol before it writes any of it, and drops it with the connection when the answer is no.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any, Final

_READ_BYTES: Final = 64 * 1024
_RECORD_BYTES: Final = 16 * 1024
"""The most that one TLS record carries (RFC 8446, 5.1)."""
_LINGER_S: Final = 5.0
_LINGER_BYTES: Final = 256 * 1024
"""How long, and for how much more that it sends, the end of the peer's side of a closed connection is waited for."""


class Asked(asyncio.Protocol):
    """A protocol that decides about what the socket has not taken at once."""

    def may_go_on(self) -> bool:
        """Whether the rest of what was written may still be handed to the socket; otherwise it is dropped, and the
        connection with it. Asked each time before some of it is."""
        return True


async def handshake(sock: socket.socket, context: ssl.SSLContext, server_name: str) -> TlsTransport:
    """Agree on TLS, as the client, over a connected non-blocking socket; the socket is the transport's from then on.

    Raises:
        ssl.SSLError: no agreement; `ssl.SSLCertVerificationError` where the peer's certificate is not accepted.
        OSError: the connection ended.
    """
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    agreed = False
    while not agreed:
        try:
            tls.do_handshake()
            agreed = True
        except ssl.SSLWantReadError:
            pass
        finally:
            # Also the alert that tells the peer why there is no agreement.
            if outgoing.pending:
                await loop.sock_sendall(sock, outgoing.read())
        if not agreed:
            data = await loop.sock_recv(sock, _READ_BYTES)
            if not data:
                raise ConnectionResetError
            incoming.write(data)
    return TlsTransport(sock, tls, incoming, outgoing)


class TlsTransport(asyncio.Transport):
    """A connection after its handshake.

    Nothing is handed to the socket but by `write`, at once, and later, if the socket has not taken all of that, with
    the protocol's consent (`Asked.may_go_on`). As long as there is such a rest the protocol's writing is paused, and
    it should write nothing.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO):
        super().__init__({"socket": sock, "ssl_object": tls})
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol: Asked = Asked()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._unsent = b""
        """TLS records that the socket has not taken; the first may be the rest of one."""
        self._closing = False
        self._closed = False
        self._lingering: asyncio.TimerHandle | None = None
        self._linger_bytes = _LINGER_BYTES

    def start(self, protocol: Asked) -> None:
        """Give the connection to its protocol."""
        self._protocol = protocol
        protocol.connection_made(self)
        if not self._closed:
            self._loop.add_reader(self._fd, self._readable)
            if self._incoming.pending:  # came with the end of the handshake
                self._loop.call_soon(self._decrypt)

    # -- asyncio.Transport ---------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._closing:
            return
        try:
            written = self._tls.write(data)
            while written < len(data):  # a record at a time
                written += self._tls.write(memoryview(data)[written:])
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._send(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Tell the peer that nothing more comes, and wait for the end of its side. What the socket has not taken is
        dropped, with the connection."""
        if self._closing:
            return
        if not self._unsent:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()  # writes the alert `close_notify` (RFC 8446, 6.1), and does not wait
            self._send(self._outgoing.read())
        if self._unsent or self._closed:
            self.abort()
            return
        self._closing = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()
            return
        self._lingering = self._loop.call_later(_LINGER_S, self.abort)

    def abort(self) -> None:
        """End the connection at once. What the kernel has is still sent, nothing else."""
        self._fail(None)

    # -- within --------------------------------------------------------------------------------------------------------

    def _send(self, records: bytes) -> None:
        if self._unsent:
            self._unsent += records
            return
        try:
            sent = self._sock.send(records)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        if sent < len(records):
            self._unsent = records[sent:]
            self._loop.add_writer(self._fd, self._writable)
            self._protocol.pause_writing()

    def _writable(self) -> None:
        if not self._protocol.may_go_on():
            self._fail(ConnectionAbortedError("what the socket had not taken may not be sent any more"))
            return
        try:
            sent = self._sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._loop.remove_writer(self._fd)
            self._protocol.resume_writing()

    def _readable(self) -> None:
        try:
            count = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if not count:
            self._fail(None)
        elif not self._closing:
            self._incoming.write(self._buffer[:count])
            self._decrypt()
        else:
            self._linger_bytes -= count
            if self._linger_bytes < 0:
                self.abort()

    def _decrypt(self) -> None:
        """Everything whole that has come, to the protocol in one piece."""
        if self._closing:
            return
        data, ended = b"", False
        try:
            data = self._tls.read(_RECORD_BYTES)
            ended = not data  # `close_notify`
            while self._incoming.pending and not ended:
                more = self._tls.read(_RECORD_BYTES)
                data += more
                ended = not more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._outgoing.pending:  # the answer to a KeyUpdate (RFC 8446, 4.6.3)
            self._send(self._outgoing.read())
        if data:
            try:
                self._protocol.data_received(data)
            except Exception as error:
                self._fail(error)
                raise
        if ended:
            self._fail(None)

    def _fail(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closing = self._closed = True
        self._unsent = b""
        if self._lingering is not None:
            self._lingering.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, error)
