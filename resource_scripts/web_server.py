"""A web server as a resource: a small server of its own that serves the files of one folder.

Private properties:

    Port          where it listens (default 80)
    DocumentRoot  the folder with the files (default: an empty page is served)
    Address       the address it listens on (default: all); set it to the address of the group's IP Address resource,
                  and make this resource depend on that one, when several web servers share a node

The path ``/whoami`` answers with the name of the node and of the resource, so that one can see who serves.

The server runs as a process of its own: its end is noticed at once, and it is killed with the resource. looks_alive
connects to the port; is_alive fetches ``/whoami`` and checks that this very resource answers.
"""

import os
import socket
import sys
import time
from typing import Any

ASK_LIMIT_S = 5.0
FIRST_ANSWER_LIMIT_S = 30.0
LINE_BYTES_MAX = 8_192
HEADERS_MAX = 30


def open(resource: Any) -> None:
    """Show the properties to administrators."""
    resource.add_property("Port", 80)
    resource.add_property("DocumentRoot", "")
    resource.add_property("Address", "")


def online(resource: Any) -> None:
    """Start the server and wait for its first answer."""
    root = str(resource.DocumentRoot)
    if root and not os.path.isdir(root):
        raise RuntimeError(f"DocumentRoot {root!r} is not a folder on this node")
    _check_port(str(resource.Address), int(resource.Port))
    process = resource.start_process(
        [sys.executable, "-I", "-S", __file__, str(resource.Address), str(int(resource.Port)), root, resource.name]
    )
    give_up = time.monotonic() + FIRST_ANSWER_LIMIT_S
    while not _answers(resource):
        if process.ended is not None:
            raise RuntimeError(f"the web server did not start: {process.describe_end()}; see the log of the resource")
        if time.monotonic() > give_up:
            raise RuntimeError(f"the web server does not answer on port {resource.Port}")
        time.sleep(0.01)


def _check_port(address: str, port: int) -> None:
    """Say clearly who is in the way, before the server ends with a message that nobody sees."""
    with socket.socket() as probe:
        # As the server itself does: connections of an earlier run that still linger are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            where = f"address {address}" if address else "all addresses"
            raise RuntimeError(
                f"port {port} on {where} cannot be used: {error.strerror}; set Port or Address to one that can, or stop"
                f" what listens there ('ss -ltnp' shows it)"
            ) from None


def offline(resource: Any) -> None:
    """Let the server end by itself, and kill it if it does not."""
    resource.stop_processes(5_000)


def looks_alive(resource: Any) -> bool:
    """Whether the port takes connections."""
    try:
        with socket.create_connection(_where(resource), timeout=ASK_LIMIT_S):
            return True
    except OSError:
        return False


def is_alive(resource: Any) -> bool:
    """Whether this very resource answers a request."""
    return _answers(resource)


def _where(resource: Any) -> tuple[str, int]:
    return str(resource.Address) or "127.0.0.1", int(resource.Port)


def _answers(resource: Any) -> bool:
    # Not http.client: importing it takes longer than a failover should wait.
    try:
        with socket.create_connection(_where(resource), timeout=ASK_LIMIT_S) as asking:
            asking.sendall(b"GET /whoami HTTP/1.0\r\n\r\n")
            with asking.makefile("rb") as answer:
                status = answer.readline(LINE_BYTES_MAX).split()
                lines = [answer.readline(LINE_BYTES_MAX).partition(b":") for _ in range(HEADERS_MAX)]
    except OSError:
        return False
    headers = {name.strip().lower(): value.strip() for name, colon, value in lines if colon}
    return status[1:2] == [b"200"] and headers.get(b"x-resource") == _header(resource.name).encode()


def _header(name: str) -> str:
    """A resource's name as it may stand in a header."""
    return name.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")


# --- the server process, started by online() ------------------------------------------------------------------------


def serve(address: str, port: int, root: str, name: str) -> None:
    """Serve until SIGTERM."""
    import functools
    import http.server
    import signal
    import socketserver

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            if self.path == "/whoami":
                self._answer(f"{socket.gethostname()} {name}\n")
            elif root:
                super().do_GET()
            else:
                self._answer("")

        def _answer(self, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Resource", _header(name))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Errors are logged, requests are not: the polls alone would fill the log."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 128

        def server_bind(self) -> None:
            # The library's own would ask the name service for this host's full name, and wait for the answer.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = address, port

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    handler = functools.partial(Handler, directory=root or "/")
    with Server((address, port), handler) as server:
        server.serve_forever(poll_interval=3600)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
