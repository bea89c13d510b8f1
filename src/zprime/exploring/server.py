"""The page on this machine: a server of the standard library, on the loopback address only.

Codes, and what says whether samples copy, are as confidential as the data. So nothing but this machine can connect; the
address has a secret part, which other users of the machine do not know; and a request under another host's name, as a
page that rebinds its name to this address makes, is refused.
"""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, final
from urllib.parse import parse_qs

from zprime.errors import UsageError, ZprimeError
from zprime.exploring.explorer import SHARED, Explorer

ADDRESS = "127.0.0.1"
LONGEST = 60_000
"""Characters of a request's first line that are read."""
AT_ONCE = 16
"""Connections that are served at the same time; further ones are closed."""
SECONDS = 20
"""How long a connection may be silent."""
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
PAGE = ("index.html", "explore.css", "explore.js", "draw.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page_file(name: str) -> bytes:
    """A file of the page, as it lies in the package."""
    return resources.files("zprime.exploring").joinpath("page", name).read_bytes()


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    status: int
    type: str
    body: bytes

    @classmethod
    def json(cls, value: Mapping[str, Any], status: int = 200) -> "Answer":
        """A value of JSON."""
        return cls(status, "application/json", json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


@final
class Site:
    """What lies below the secret part of the address; nothing of a request names a file."""

    def __init__(self, explorer: Explorer) -> None:
        """Read the files of the page once."""
        self.explorer, self.lock = explorer, threading.Lock()
        self.files = {name: Answer(200, TYPES[name.rsplit(".")[-1]], page_file(name)) for name in PAGE}
        self.files |= {"": self.files["index.html"], "model.js": Answer(200, TYPES["js"], page_file("served.js"))}

    def answer(self, path: str, query: str) -> Answer:
        """Answer one request; those that compute wait for each other.

        Args:
            path: below the secret part, e.g. `decode`.
            query: what follows the question mark.
        """
        if path in self.files:
            return self.files[path]
        if path not in ASKED:
            return Answer.json({"error": "no such page"}, 404)
        try:
            if len(query) > LONGEST:
                raise UsageError(f"query: expected at most {LONGEST} characters, got {len(query)}")
            given = _given(query)
            with self.lock:
                return Answer.json(ASKED[path](self.explorer, given))
        except UsageError as error:
            return Answer.json({"error": str(error)}, 400)
        except Exception as error:  # numbers that are not finite, memory, and whatever a decoder of the user's raises
            said = str(error) if isinstance(error, ZprimeError) else f"{type(error).__name__}: {error}"
            return Answer.json({"error": said}, 500)


def _given(query: str) -> dict[str, str]:
    try:
        found = parse_qs(query, strict_parsing=bool(query), max_num_fields=4)
    except ValueError as error:
        raise UsageError(f"query: expected name=value&..., got something else ({error})") from error
    return {name: values[-1] for name, values in found.items()}


def _numbers(given: Mapping[str, str], name: str) -> list[float]:
    try:
        return [float(v) for v in given[name].split(",")]
    except (KeyError, ValueError) as error:
        raise UsageError(f"{name}: expected numbers with commas between them") from error


def _places(given: Mapping[str, str], name: str) -> list[int]:
    text = given.get(name, "").split(",")
    if len(text) > SHARED or not all(v.isascii() and v.isdigit() and len(v) < 10 for v in text):
        raise UsageError(f"{name}: expected 1 to {SHARED} whole numbers with commas between them")
    return [int(v) for v in text]


def _row(explorer: Explorer, given: Mapping[str, str]) -> dict[str, Any]:
    return explorer.row(_places(given, "rows")[0])


def _between(explorer: Explorer, given: Mapping[str, str]) -> dict[str, Any]:
    rows = _places(given, "rows")
    if len(rows) != 2:
        raise UsageError(f"rows: expected two, got {len(rows)}")
    return explorer.between(rows[0], rows[1], given.get("source", "prior"))


ASKED: dict[str, Callable[[Explorer, Mapping[str, str]], dict[str, Any]]] = {
    "scene.json": lambda e, given: e.scene(),
    "decode": lambda e, given: e.decode(_numbers(given, "z"), given.get("source", "prior")),
    "row": _row,
    "shared": lambda e, given: e.shared(_places(given, "rows")),
    "between": _between,
    "try": lambda e, given: e.trying(given.get("setting", ""), _numbers(given, "value")[0]),
}
"""What the page asks for -> the answer."""


@final
class Server(ThreadingHTTPServer):
    """Serves one `Explorer` on the loopback address; `serve_forever` runs until the process is interrupted."""

    daemon_threads = True

    def __init__(self, explorer: Explorer, port: int = 0) -> None:
        """Listen.

        Args:
            explorer: what to show.
            port: 0 takes a free one.

        Raises:
            UsageError: the port is no port, or taken.
        """
        if not 0 <= port <= 65535:
            raise UsageError(f"port: expected a number from 0 (any free one) to 65535, got {port}")
        self.site, self.secret = Site(explorer), secrets.token_urlsafe(16)
        self._room = threading.BoundedSemaphore(AT_ONCE)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UsageError(f"port: {port} cannot be used ({error.strerror}); leave --port out for a free one") from (
                error
            )

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names under which a browser on this machine asks."""
        return f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def url(self) -> str:
        """Where the page is, with the secret part."""
        return f"http://{self.hosts[0]}/{self.secret}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve it, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; the request names z, so nothing is printed of any."""


class _Handler(BaseHTTPRequestHandler):
    """Reads GET, and nothing else; http.server refuses other methods, and first lines above 65,536 bytes."""

    server: Server
    server_version, sys_version, timeout = "zprime", "", SECONDS

    def do_GET(self) -> None:
        """Answer."""
        path, _, query = self.path.partition("?")
        secret, _, below = path.removeprefix("/").partition("/")
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            answer = Answer.json({"error": "this page is for the machine that it runs on"}, 403)
        elif not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            answer = Answer.json({"error": "no such page"}, 404)
        else:
            answer = self.server.site.answer(below, query)
        self.send_response(answer.status)
        for name, value in {**HEADERS, "Content-Type": answer.type, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request names what somebody looks at."""
