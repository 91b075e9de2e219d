"""A local web server for a run: its report, and detections in images that the user drops on a page.

    GET /           the page that takes images
    GET /report     the run's report
    POST /predict   an image file as the body -> JSON {"picture": JPEG in base64, "found": [[class, score], ..]}

Pages of other sites cannot use the server. A browser names the page that sends a request (Origin, Sec-Fetch-Site), and
the server refuses other pages. It also refuses host names other than its own (Host), since an attacker's DNS can point
a name at this machine.
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import UPLOAD_FORMATS, open_picture
from tailseg.drawing import draw, to_jpeg
from tailseg.inference import Predictor
from tailseg.report.builder import build_page

MAX_UPLOAD_BYTES: Final = 20_000_000
"""The largest size of an image file."""
MAX_PIXELS: Final = 50_000_000
"""The largest number of pixels of an image. A small file may need gigabytes when it is decoded."""
IDLE_SECONDS: Final = 30
"""A connection without data is closed after this time."""
TOTAL_SECONDS: Final = 120
"""The longest time in which a request arrives, or an answer is sent."""
MAX_WAITING: Final = 512
"""The largest number of connections that wait to be accepted."""
POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The policy of an answer that is no page."""
PAGE_POLICY: Final = "frame-ancestors 'none'"
"""The rest of a page's policy: the page states the policy of its own script."""
HTML: Final = "text/html; charset=utf-8"


class RequestError(Exception):
    """A request is refused; the answer has the status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Service:
    """The content of the server.

    Attributes:
        predictor: the trained model.
        report: the page of the report, if there is one.
        name: the host name that the user gave. A browser may use it, localhost or an address.
        threshold: the lowest score of the detections, or one for each label, if a request has none.
    """

    predictor: Predictor
    report: bytes | None
    name: str
    threshold: float | Sequence[float] = 0.3


class Server(ThreadingHTTPServer):
    """A server with a thread and a time limit for each connection."""

    request_queue_size = MAX_WAITING

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._limits: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def start_limit(self, connection: socket.socket) -> None:
        """Closes the connection after `TOTAL_SECONDS`, counted from now."""
        self._limits[connection] = time.monotonic() + TOTAL_SECONDS

    def end_limit(self, connection: socket.socket) -> None:
        """Removes the time limit, while the connection waits for this server or after it was closed."""
        self._limits.pop(connection, None)

    def service_actions(self) -> None:
        """Closes connections whose time is over; the base class calls this twice a second."""
        now = time.monotonic()
        for connection, end in list(self._limits.items()):
            if end < now:
                self.end_limit(connection)
                with suppress(OSError):  # it may be closed already
                    connection.shutdown(socket.SHUT_RDWR)


def make_server(service: Service, *, host: str, port: int) -> Server:
    """Makes a server that listens on an address.

    Args:
        service: the content of the server.
        host: a host name or an address of this machine.
        port: the port; 0 chooses a free one.

    Returns:
        The server. It answers after its ``serve_forever`` is called.

    Raises:
        OSError: the address is in use, or does not belong to this machine.
    """

    class Handler(_Handler):
        service: ClassVar[Service]

    Handler.service = service
    return Server((host, port), Handler)


def detect_in_file(predictor: Predictor, file: bytes, *, threshold: float | Sequence[float]) -> dict[str, Any]:
    """Detects objects in an image file, and draws them.

    Args:
        predictor: the trained model.
        file: the content of a JPEG, PNG, WebP or GIF file.
        threshold: the lowest score of the detections, in ``[0, 1]``, or one for each label.

    Returns:
        ``picture``: the image with the detections, a JPEG file in base64; ``found``: the name and the score of each.

    Raises:
        RequestError: the file is not an image, is damaged, or has too many pixels.
    """
    try:
        with open_picture(io.BytesIO(file), UPLOAD_FORMATS) as opened:
            width, height = opened.size
    except Image.DecompressionBombError as error:
        raise _too_large("far too many") from error
    except (OSError, ValueError, RuntimeError) as error:  # of a malformed header
        expected = "expected a JPEG, PNG, WebP or GIF file"
        raise RequestError(HTTPStatus.BAD_REQUEST, f"the file cannot be read as an image: {expected}") from error
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")
    with tempfile.NamedTemporaryFile() as stored:
        stored.write(file)
        stored.flush()
        try:
            image = predictor.read(stored.name)
        except ImageError as error:
            reason = "the image is damaged: only a part of it can be read"
            raise RequestError(HTTPStatus.BAD_REQUEST, reason) from error
    detections = predictor.detect(image).above(threshold)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    try:
        jpeg = to_jpeg(draw(picture, detections, predictor.names, predictor.frequency.groups), quality=90)
    except ImageError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
    return {
        "picture": base64.b64encode(jpeg).decode("ascii"),
        "found": [
            [predictor.names[label], round(score, 3)]
            for label, score in zip(detections.labels.tolist(), detections.scores.tolist(), strict=True)
        ],
    }


def _too_large(pixels: str) -> RequestError:
    limit = f"expected at most {MAX_PIXELS // 10**6} million"
    return RequestError(HTTPStatus.BAD_REQUEST, f"the image has {pixels} pixels: {limit}. Make it smaller")


@cache
def build_try_page(threshold: float | None) -> bytes:
    """Builds the page that sends images to this server and shows what was detected.

    Its field for the threshold has this value; empty for None, which stands for the thresholds of the classes.
    """
    page = build_page(
        "try.html",
        styles=["base", "try"],
        scripts=["elements", "try"],
        requests="'self'",
        title="tailseg: try an image",
        threshold="" if threshold is None else f"{threshold:g}",
    )
    return page.encode()


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[Service]
    detection_lock: ClassVar = threading.Lock()
    timeout = IDLE_SECONDS
    server_version = "tailseg"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._server.start_limit(self.connection)

    def finish(self) -> None:
        self._server.end_limit(self.connection)
        super().finish()

    @property
    def _server(self) -> Server:
        return cast("Server", self.server)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Any) -> None:  # noqa: ANN401 - a method
        with suppress(ConnectionError, TimeoutError):  # the client has left
            try:
                check_sender(dict(self.headers.items()), name=self.service.name)
                content, content_type = make(_split_url(self.path))
            except RequestError as error:
                self._refuse(error.status, str(error))
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001 - the sender of an image gets every error
                reason = str(error).strip() or type(error).__name__
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the image cannot be used: {reason}")
            else:
                self._send(HTTPStatus.OK, content, content_type)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answers, and reads the rest of the body: a client that is still sending would lose the answer."""
        self.close_connection = True
        self._send(status, _to_json({"error": reason}), "application/json")
        with suppress(OSError):  # the other end may have closed it
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(65536):
                pass

    def _get(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path == "/":
            threshold = self.service.threshold
            return build_try_page(threshold if isinstance(threshold, int | float) else None), HTML
        if url.path == "/report" and self.service.report is not None:
            return self.service.report, HTML
        raise RequestError(HTTPStatus.NOT_FOUND, "there is no such page: open / or /report")

    def _post(self, url: SplitResult) -> tuple[bytes, str]:
        if url.path != "/predict":
            raise RequestError(HTTPStatus.NOT_FOUND, "there is no such page: send images to /predict")
        threshold = _read_threshold(url.query, self.service.threshold)
        length = _read_length(self.headers.get("Content-Length", ""))
        if length > MAX_UPLOAD_BYTES:
            limit = f"expected at most {MAX_UPLOAD_BYTES // 10**6} MB"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has {length / 1e6:.1f} MB: {limit}")
        file = self.rfile.read(length)
        if len(file) < length:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"only {len(file):,} of the file's {length:,} bytes arrived")
        self._server.end_limit(self.connection)
        with self.detection_lock:
            answer = detect_in_file(self.service.predictor, file, threshold=threshold)
        return _to_json(answer), "application/json"

    def _send(self, status: HTTPStatus, content: bytes, content_type: str) -> None:
        self._server.start_limit(self.connection)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", PAGE_POLICY if content_type == HTML else POLICY)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Logs nothing, because the page shows errors to its user."""


def check_sender(headers: dict[str, str], *, name: str) -> None:
    """Checks that a request comes from a page of this server, or from no page.

    Args:
        headers: the headers of the request.
        name: the host name that the user gave.

    Raises:
        RequestError: the request uses a host name that is not this server's, or comes from a page of another site.
    """
    lowered = {key.lower(): value for key, value in headers.items()}
    host = lowered.get("host", "")
    try:
        hostname = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        hostname = ""
    if hostname not in ("localhost", name.lower()) and not _is_address(hostname):
        raise RequestError(HTTPStatus.FORBIDDEN, "expected localhost or the address of this server as the host name")
    origin = lowered.get("origin")
    site = lowered.get("sec-fetch-site", "none")
    if (origin is not None and origin != f"http://{host}") or site not in ("none", "same-origin"):
        raise RequestError(HTTPStatus.FORBIDDEN, "pages of other sites cannot use this server")


def _is_address(hostname: str) -> bool:
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return False
    return True


def _split_url(path: str) -> SplitResult:
    try:
        return urlsplit(path)
    except ValueError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, "the address is not valid") from error


def _read_length(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise RequestError(HTTPStatus.LENGTH_REQUIRED, "expected an image file with its Content-Length")
    return int(text)


def _read_threshold(query: str, default: float | Sequence[float]) -> float | Sequence[float]:
    texts = parse_qs(query).get("threshold")  # without one whose value is empty
    if not texts:
        return default
    text = texts[-1]
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold <= 1:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"threshold: expected a number in [0, 1], got {text[:20]!r}")
    return threshold


def _to_json(content: object) -> bytes:
    return json.dumps(content).encode()
