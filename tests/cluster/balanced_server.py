"""The server that the hosts of the balancing tests run: says its host's name over TCP and UDP, and drips downloads.

``GET /whoami`` answers the name of the machine. ``GET /drip/N`` answers N lines, one each 50 ms, each with the name.
A datagram is answered with the name. Started as ``balanced_server.py PORT``; it listens on every address.
"""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
from typing import Final

DRIP_INTERVAL_S: Final = 0.05


class Handler(http.server.BaseHTTPRequestHandler):
    """One request for each connection."""

    def do_GET(self) -> None:
        """See the module."""
        name = socket.gethostname()
        words = self.path.strip("/").split("/")
        if words[0] == "whoami":
            self._say([name])
        elif words[0] == "drip":
            self._say([f"{name} {number}" for number in range(int(words[1]))], interval_s=DRIP_INTERVAL_S)
        else:
            self.send_error(404)

    def _say(self, lines: list[str], interval_s: float = 0.0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(sum(len(line) + 1 for line in lines)))
        self.end_headers()
        for line in lines:
            self.wfile.write(f"{line}\n".encode())
            time.sleep(interval_s)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def main() -> None:
    """Serve for ever."""
    port = int(sys.argv[1])
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(("::", port))

    def answer() -> None:
        while True:
            _, sender = echo.recvfrom(64)
            echo.sendto(socket.gethostname().encode(), sender)

    threading.Thread(target=answer, daemon=True).start()
    http.server.ThreadingHTTPServer.address_family = socket.AF_INET6
    http.server.ThreadingHTTPServer.request_queue_size = 256
    http.server.ThreadingHTTPServer(("::", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
