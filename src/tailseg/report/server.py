"""A run on this machine's loopback: its report, and predictions on images that are dropped on a page.

    GET /           the page that takes images
    GET /report     the run's report
    POST /predict   an image file as the body -> JSON {"picture": JPEG in base64, "found": [[class, score], ..]}

No page of another site can use it: a browser names the page that asks (Origin, Sec-Fetch-Site), and a name that an
attacker's DNS has pointed at this machine is no address (Host).
"""

import base64
import io
import ipaddress
import json
import math
import re
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar, Final, cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import UPLOAD_FORMATS, open_picture
from tailseg.drawing import draw, to_jpeg
from tailseg.inference import Predictor

LARGEST_UPLOAD: Final = 20_000_000
"""Bytes of an image file."""
MOST_PIXELS: Final = 50_000_000
"""Of an image: a small file can unfold to gigabytes."""
SECONDS: Final = 30
"""A silent connection is closed."""
TOTAL_SECONDS: Final = 120
"""A request has arrived by then, and an answer has been fetched, however often a few bytes came meanwhile."""
WAITING: Final = 512
"""Connections that the system keeps until they are accepted."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
PARTS: Final = {
    "/": ("try.html", "text/html; charset=utf-8"),
    "/try.js": ("try.js", "text/javascript; charset=utf-8"),
    "/try.css": ("try.css", "text/css; charset=utf-8"),
}


class Refused(Exception):  # noqa: N818 - an answer
    """A request that gets no other answer than its status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Service:
    """What is served.

    Attributes:
        predictor: the trained model.
        report: the report's page, if there is one.
        name: the host's name as the user gave it: with localhost and addresses, what a browser may call this server.
    """

    predictor: Predictor
    report: bytes | None
    name: str


class Server(ThreadingHTTPServer):
    """A thread a connection, each with a time limit."""

    request_queue_size = WAITING

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._limits: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def limit(self, connection: socket.socket) -> None:
        """From now on the connection has `TOTAL_SECONDS`; then what it waits for ends."""
        self._limits[connection] = time.monotonic() + TOTAL_SECONDS

    def unlimited(self, connection: socket.socket) -> None:
        """The connection waits for this server's work, or is closed."""
        self._limits.pop(connection, None)

    def service_actions(self) -> None:
        """Called twice a second."""
        now = time.monotonic()
        for connection, end in list(self._limits.items()):
            if end < now:
                self.unlimited(connection)
                with suppress(OSError):  # it has been closed meanwhile
                    connection.shutdown(socket.SHUT_RDWR)


def make_server(service: Service, *, host: str, port: int) -> Server:
    """A server that listens, and answers once its ``serve_forever`` is called.

    Raises:
        OSError: the address is in use, or not this machine's.
    """

    class Handler(_Handler):
        service: ClassVar[Service]

    Handler.service = service
    return Server((host, port), Handler)


def find(predictor: Predictor, file: bytes, *, threshold: float) -> dict[str, Any]:
    """What the model finds in an image file, drawn and listed.

    Raises:
        Refused: the file is no image, or too large or too long a one.
    """
    try:
        with open_picture(io.BytesIO(file), UPLOAD_FORMATS) as opened:
            width, height = opened.size
    except Image.DecompressionBombError as error:
        raise _too_large("far too many") from error
    except (OSError, ValueError, RuntimeError) as error:  # of a malformed header
        expected = "expected a JPEG, PNG, WebP or GIF file"
        raise Refused(HTTPStatus.BAD_REQUEST, f"this is no image that can be read: {expected}") from error
    if width * height > MOST_PIXELS:
        raise _too_large(f"{width} x {height}")
    with tempfile.NamedTemporaryFile() as stored:
        stored.write(file)
        stored.flush()
        try:
            image = predictor.read(stored.name)
        except ImageError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "the image is damaged: only a part of it could be read") from error
    found = predictor.detect(image).above(threshold)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    try:
        drawn = to_jpeg(draw(picture, found, predictor.names, predictor.frequency.groups), quality=90)
    except ImageError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    return {
        "picture": base64.b64encode(drawn).decode("ascii"),
        "found": [
            [predictor.names[label], round(score, 3)]
            for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        ],
    }


def _too_large(pixels: str) -> Refused:
    limit = f"at most {MOST_PIXELS // 10**6} million pixels are looked at"
    return Refused(HTTPStatus.BAD_REQUEST, f"the image has {pixels} pixels: {limit}; make it smaller")


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[Service]
    one_at_a_time: ClassVar = threading.Lock()
    timeout = SECONDS
    server_version = "tailseg"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._server.limit(self.connection)

    def finish(self) -> None:
        self._server.unlimited(self.connection)
        super().finish()

    @property
    def _server(self) -> Server:
        return cast("Server", self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Any) -> None:  # noqa: ANN401 - a method
        with suppress(ConnectionError, TimeoutError):  # who asked has gone
            try:
                check_sender(dict(self.headers.items()), name=self.service.name)
                content, kind = make(_parts(self.path))
            except Refused as refusal:
                self._refuse(refusal.status, str(refusal))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one image, who sent it is told
                reason = str(error).strip() or type(error).__name__
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the image could not be looked at: {reason}")
            else:
                self._send(HTTPStatus.OK, content, kind)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answers, and takes the rest of the body: an answer before it is lost to who is still sending."""
        self.close_connection = True
        self._send(status, _json({"error": reason}), "application/json")
        with suppress(OSError):  # the other end may have closed it
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(65536):
                pass

    def _get(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path == "/report" and self.service.report is not None:
            return self.service.report, "text/html; charset=utf-8"
        if url.path not in PARTS:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here: look at / and /report")
        name, kind = PARTS[url.path]
        return files("tailseg.report").joinpath(name).read_bytes(), kind

    def _post(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path != "/predict":
            raise Refused(HTTPStatus.NOT_FOUND, "images are taken at /predict")
        threshold = _threshold(url.query)
        length = _length(self.headers.get("Content-Length", ""))
        if length > LARGEST_UPLOAD:
            limit = f"at most {LARGEST_UPLOAD // 10**6} MB are taken"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has {length / 1e6:.1f} MB: {limit}")
        file = self.rfile.read(length)
        if len(file) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"only {len(file):,} of the file's {length:,} bytes arrived")
        self._server.unlimited(self.connection)
        with self.one_at_a_time:
            return _json(find(self.service.predictor, file, threshold=threshold)), "application/json"

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self._server.limit(self.connection)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if content is not self.service.report:  # which states its own
            self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing is logged: the page tells its user."""


def check_sender(headers: dict[str, str], *, name: str) -> None:
    """Lets through what comes from this server's own pages, or from no page.

    Args:
        headers: of the request.
        name: the host's name as the user gave it.

    Raises:
        Refused: the request calls this server by a name that is not its own, or comes from another site's page.
    """
    given = {key.lower(): value for key, value in headers.items()}
    host = given.get("host", "")
    try:
        hostname = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        hostname = ""
    if hostname not in ("localhost", name.lower()) and not _is_address(hostname):
        raise Refused(HTTPStatus.FORBIDDEN, "this server is called by its address or as localhost, by no other name")
    origin = given.get("origin")
    site = given.get("sec-fetch-site", "none")
    if (origin is not None and origin != f"http://{host}") or site not in ("none", "same-origin"):
        raise Refused(HTTPStatus.FORBIDDEN, "pages of other sites are not answered")


def _is_address(hostname: str) -> bool:
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return False
    return True


def _parts(path: str) -> SplitResult:
    try:
        return urlsplit(path)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "this is no address") from error


def _length(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected an image file with its Content-Length")
    return int(text)


def _threshold(query: str) -> float:
    (text,) = parse_qs(query).get("threshold", ["0.3"])[-1:]
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise Refused(HTTPStatus.BAD_REQUEST, f"threshold is a number in [0, 1], got {text[:20]!r}")
    return threshold


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
