"""An HTTPS server on this machine whose answers a test chooses, byte for byte and at its own pace.

It runs in threads, so that a command which has an event loop of its own can ask it.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from msgspec import Struct

from tocsin.emulator.credentials import Files


class Asked(Struct, frozen=True):
    """A request that has arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(Struct, frozen=True):
    """An answer; its body is sent in these pieces, with a pause after each."""

    body: bytes | list[bytes] = b""
    status: int = 200
    headers: dict[str, str] = {}
    pause_s: float = 0.0
    raw: bytes | None = None
    """Sent in place of all that."""


Answer = Callable[[Asked], Reply]


class HttpsServer:
    """Listens while it is entered; `stop` and `start` let it go down and come back at the same address."""

    def __init__(self, files: Files) -> None:
        self.ca = files.ca
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(files.server)
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer] = {}

    def __enter__(self) -> HttpsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, path: str) -> str:
        return f"https://localhost:{self._port}{path}"

    def say(self, path: str, reply: Reply) -> None:
        self.answers[path] = lambda _: reply

    def start(self) -> None:
        server = _Server(("127.0.0.1", self._port), _handler(self))
        server.socket = self._tls.wrap_socket(server.socket, server_side=True)
        self._port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(owner: HttpsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            owner.asked.append(asked)
            answer = owner.answers.get(self.path)
            reply = Reply(status=404) if answer is None else answer(asked)
            pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
            self.close_connection = True
            with contextlib.suppress(OSError):
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(sum(map(len, pieces))))
                self.send_header("connection", "close")
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(reply.pause_s)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
