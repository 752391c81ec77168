"""A provider on this machine that means harm: over real TLS, frame by frame, in threads of its own.

What it does with a connection is a function, which a test chooses. It counts what it could send, and notes when the
client has ended each connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hpack

from tocsin.emulator.credentials import Files

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FLOOD_S = 20.0
"""A connection that the client has not ended by then is left: its test fails."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream_id) + payload


def head(*fields: tuple[str, str]) -> bytes:
    """A header block that needs no state of the connection."""
    return hpack.Encoder().encode(fields, huffman=False)


class EvilConnection:
    """The server's side of one connection, blocking."""

    def __init__(self, server: EvilServer, sock: ssl.SSLSocket) -> None:
        self._server = server
        self._sock = sock
        self._received = b""
        self._window = 65535
        self._stream_window = 65535

    def send(self, data: bytes) -> None:
        """Raises OSError once the client has ended the connection."""
        self._sock.sendall(data)
        self._server.sent_bytes += len(data)

    def flood(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Send these again and again, until the client ends the connection."""
        batch = b"".join(pieces) if pause_s else b"".join(pieces) * max(1, 16_384 // sum(map(len, pieces)))
        deadline = time.monotonic() + _FLOOD_S
        while time.monotonic() < deadline and not self._server.stopping:
            self.send(batch)
            time.sleep(pause_s)

    def start(self, *settings: tuple[int, int]) -> None:
        """Read the client's preface, send SETTINGS, and acknowledge the client's."""
        self._read(len(_PREFACE))
        self.send(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings)))
        self.send(frame(SETTINGS, ACK, 0))

    def requests(self) -> Iterator[int]:
        """The stream ids of the requests, as they come."""
        while True:
            kind, _, stream_id, _ = self.read_frame()
            if kind == HEADERS:
                self._server.requests += 1
                yield stream_id

    def read_frame(self) -> tuple[int, int, int, bytes]:
        header = self._read(9)
        length = int.from_bytes(header[:3], "big")
        kind, flags, stream_id = struct.unpack(">BBI", header[3:])
        payload = self._read(length)
        if kind == SETTINGS and not flags & ACK:
            for offset in range(0, length, 6):
                key, value = struct.unpack_from(">HI", payload, offset)
                if key == 4:
                    self._stream_window = value
        elif kind == WINDOW_UPDATE:
            self._window += struct.unpack(">I", payload)[0] if stream_id == 0 else 0
            self._stream_window += struct.unpack(">I", payload)[0] if stream_id else 0
        return kind, flags, stream_id, payload

    def flood_within_windows(self, stream_id: int) -> None:
        """A body without end, as flow control allows it."""
        deadline = time.monotonic() + _FLOOD_S
        while time.monotonic() < deadline and not self._server.stopping:
            while min(self._window, self._stream_window) < 16_384:
                self.read_frame()
            self.send(frame(DATA, 0, stream_id, bytes(16_384)))
            self._window -= 16_384
            self._stream_window -= 16_384

    def wait(self) -> None:
        """Say nothing more, until the client ends the connection."""
        while True:
            self.read_frame()

    def read_head(self) -> None:
        """Read the head of a request of HTTP/1.1."""
        while b"\r\n\r\n" not in self._received:
            self._read(len(self._received) + 1, keep=True)

    def wait_for_end(self) -> None:
        """Say nothing more, until the client ends the connection; whatever it sends."""
        while True:
            self._received = b""
            self._read(1)

    def _read(self, length: int, *, keep: bool = False) -> bytes:
        while len(self._received) < length:
            more = self._sock.recv(65536)
            if not more:
                raise ConnectionResetError
            self._received += more
        data = self._received[:length]
        if not keep:
            self._received = self._received[length:]
        return data


Attack = Callable[[EvilConnection], None]


class EvilServer:
    """See `evil_server`."""

    def __init__(self, files: Files, attack: Attack, alpn: str) -> None:
        self._attack = attack
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(files.server)
        self._tls.set_alpn_protocols([alpn])
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: set[socket.socket] = set()
        self.url = f"https://localhost:{self._listening.getsockname()[1]}"
        self.stopping = False
        self.sent_bytes = 0
        self.connections = 0
        self.requests = 0
        self.ended = 0
        """Connections that the client has ended."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.stopping = True
        for sock in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self.stopping:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        with contextlib.suppress(OSError), self._tls.wrap_socket(sock, server_side=True) as secured:
            self._open.add(secured)
            try:
                self._attack(EvilConnection(self, secured))
            except OSError:
                self.ended += 1


@contextmanager
def evil_server(files: Files, attack: Attack, alpn: str = "h2") -> Iterator[EvilServer]:
    """A server with the emulator's certificate, at `localhost`, that does `attack` on every connection."""
    server = EvilServer(files, attack, alpn)
    try:
        yield server
    finally:
        server.close()
