"""A receiver of OTLP over HTTP on this machine, as a collector is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver:
    """What was received: spans as protobuf, and every request as it came."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"
        self.raw: list[bytes] = []
        self.status = 200

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in list(self.raw)]
        return [
            span
            for request in requests
            for of_a_resource in request.resource_spans
            for of_a_scope in of_a_resource.scope_spans
            for span in of_a_scope.spans
        ]

    def wait_for(self, name: str, count: int = 1, within_s: float = 60.0, **attributes: Any) -> list[Any]:
        """The spans of this name with these attributes (`_` stands for `.`), once there are so many."""
        deadline = time.monotonic() + within_s
        while True:
            found = [span for span in self.spans() if span.name == name and attributes.items() <= plain(span).items()]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, [(span.name, plain(span)) for span in self.spans()]
            time.sleep(0.05)


def plain(span: Any) -> dict[str, Any]:
    """Its attributes, without `tocsin.` before them."""
    return {
        one.key.removeprefix("tocsin."): getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes
    }


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.raw.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(received.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Receiver(server.server_address[1])
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield received
        finally:
            server.shutdown()
