"""A backend of raw recorded bytes, for answers that no simulator would give, and for what exactly was asked."""

import contextlib
import socketserver
import threading
import time
from collections.abc import Iterator


class Recorded(socketserver.ThreadingTCPServer):
    """Answers every request with `answer`, closes the connection, and keeps the requests' bodies."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = b""
        self.dripping = b""  # what follows the answer, a byte each 0.1 s
        self.bodies: list[bytes] = []

    @property
    def base_url(self) -> str:
        """What a backend's base_url is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer_json(self, body: bytes) -> None:
        """From now on, answer 200 with this body."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        self.answer = head % len(body) + body


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Recorded)
        length = 0
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.server.bodies.append(self.rfile.read(length))
        self.wfile.write(self.server.answer)
        for byte in self.server.dripping:
            time.sleep(0.1)
            self.wfile.write(bytes([byte]))


@contextlib.contextmanager
def recorded_backend(port: int) -> Iterator[Recorded]:
    """One that listens while inside."""
    with Recorded(port) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
