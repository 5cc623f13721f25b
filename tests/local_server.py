"""A real HTTP server on 127.0.0.1 that misbehaves on demand: breaks off, is busy, moves, changes its files."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Behaviour:
    """What the server holds and how it answers; a test changes it while the server runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> content; the ETag is a function of both."""
    cut_after: list[int] = field(default_factory=list)
    """For the next requests: bytes that are sent before the connection is closed."""
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """For the next requests: a status and headers in place of an answer."""
    ranges: bool = True
    lengths: bool = True
    stall_s: float = 0.0
    """Silence before the first byte."""
    wrong_range: bool = False
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)
    """Method, path and headers of every request."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    behaviour: Behaviour

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what many of the tests are about."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        path = urlsplit(self.path).path
        behaviour.seen.append({"path": self.path, **dict(self.headers.items())})
        self.close_connection = True
        if behaviour.statuses:
            status, headers = behaviour.statuses.pop(0)
            self._head(status, {"Content-Length": "0", **headers})
        elif path in behaviour.redirects:
            self._head(302, {"Location": behaviour.redirects[path], "Content-Length": "0"})
        elif path not in behaviour.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._serve(behaviour, behaviour.files[path])

    def _serve(self, behaviour: Behaviour, content: bytes) -> None:
        time.sleep(behaviour.stall_s)
        tag = f'"{hash(content)}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers, status, start = {"ETag": tag, "Accept-Ranges": "bytes"}, 200, 0
        if asked and behaviour.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked[1])
            if start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            shown = start + behaviour.wrong_range
            status, headers["Content-Range"] = 206, f"bytes {shown}-{len(content) - 1}/{len(content)}"
        if behaviour.lengths:
            headers["Content-Length"] = str(len(content) - start)
        self._head(status, headers)
        rest = content[start:]
        self.wfile.write(rest[: behaviour.cut_after.pop(0)] if behaviour.cut_after else rest)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


@contextmanager
def running_server() -> Iterator[Server]:
    """A server in a thread of this process, on a free port; ended with the block."""
    server = Server(("127.0.0.1", 0), _Handler)
    server.behaviour = Behaviour()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
