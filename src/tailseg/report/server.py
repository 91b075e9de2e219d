"""A local web server for a run: its report, and detections in images that the user drops on a page.

    GET /               the page that takes images
    GET /report         the run's report, if there is one
    GET /model          the model's name, its classes and their thresholds, as JSON
    GET /openapi.json   the description of all this (OpenAPI 3.1)
    POST /predict       an image file as the body -> its detections, as JSON

Requests that come at one time are detected together, in batches. Pages of other sites cannot use the server. A browser
names the page that sends a request (Origin, Sec-Fetch-Site), and the server refuses other pages. It also refuses host
names other than its own (Host), since an attacker's DNS can point a name at this machine.
"""

import base64
import io
import ipaddress
import json
import math
import queue
import re
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Protocol, cast, runtime_checkable
from urllib.parse import SplitResult, parse_qs, urlsplit

from PIL import Image
from torch import Tensor

from tailseg import __version__
from tailseg.annotations.dataset import Category
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import UPLOAD_FORMATS, open_picture
from tailseg.annotations.types import Group, Orientation
from tailseg.data.images import decode
from tailseg.drawing import draw, to_jpeg
from tailseg.inference.pipeline import Detector
from tailseg.inference.schema import read_definitions
from tailseg.report.builder import build_page
from tailseg.structures import Detections

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
BATCH_SECONDS: Final = 0.01
"""How long the first image of a batch waits for others."""
POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The policy of an answer that is no page."""
PAGE_POLICY: Final = "frame-ancestors 'none'"
"""The rest of a page's policy: the page states the policy of its own script."""
HTML: Final = "text/html; charset=utf-8"


class RequestError(Exception):
    """A request is refused; the answer has the status, the reason and, of a wrong method, the allowed ones."""

    def __init__(self, status: HTTPStatus, reason: str, *, allowed: str = "") -> None:
        super().__init__(reason)
        self.status, self.allowed = status, allowed


@runtime_checkable
class Model(Protocol):
    """What the server needs of a `tailseg.inference.Predictor` or a `tailseg.export.engine.Engine`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes, by label."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The frequency group of each label."""

    @property
    def orientation(self) -> Orientation:
        """Whether images are turned as their EXIF data says."""

    @property
    def detect_batch(self) -> Detector:
        """Detects objects in several images."""


@dataclass(frozen=True)
class Service:
    """The content of the server.

    Attributes:
        predictor: the model.
        report: the page of the report, if there is one.
        name: the host name that the user gave. A browser may use it, localhost or an address.
        threshold: the lowest score of the detections, or one for each label, if a request has none.
        model: the model's name in answers.
        batch_size: the largest number of images that are detected together.
    """

    predictor: Model
    report: bytes | None
    name: str
    threshold: float | Sequence[float] = 0.3
    model: str = "model"
    batch_size: int = 1


class Batcher:
    """Detects the images of several threads together, in a thread of its own that ends with the process.

    Args:
        detector: detects in a batch.
        batch_size: the largest number of images of a batch.
    """

    def __init__(self, detector: Detector, batch_size: int) -> None:
        self._detector, self._batch_size = detector, batch_size
        self._waiting: queue.SimpleQueue[tuple[Tensor, Future[Detections]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="batches", daemon=True).start()

    def detect(self, image: Tensor) -> Detections:
        """Detects objects in an image, and waits for the result.

        Raises:
            Exception: the detector fails at this image.
        """
        result: Future[Detections] = Future()
        self._waiting.put((image, result))
        return result.result()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            end = time.monotonic() + BATCH_SECONDS
            while len(batch) < self._batch_size:
                try:
                    batch.append(self._waiting.get(timeout=max(end - time.monotonic(), 0)))
                except queue.Empty:
                    break
            self._detect(batch)

    def _detect(self, batch: Sequence[tuple[Tensor, "Future[Detections]"]]) -> None:
        try:
            for (_, result), detections in zip(batch, self._detector([image for image, _ in batch]), strict=True):
                result.set_result(detections)
        except Exception as error:  # noqa: BLE001 - it belongs to the request
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # one image must not fail for another one
                for one in batch:
                    self._detect([one])


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
    Handler.batcher = Batcher(service.predictor.detect_batch, service.batch_size)
    # each image may take 150 MB: the images of the next batch are read while one is detected, and no more
    Handler.reading = threading.Semaphore(2 * service.batch_size)
    return Server((host, port), Handler)


def read_upload(file: bytes, orientation: Orientation) -> Tensor:
    """Decodes an image file from an unknown person.

    Args:
        file: the content of a JPEG, PNG, WebP or GIF file.
        orientation: whether it is turned as its EXIF data says.

    Returns:
        The image, uint8 RGB ``[3, h, w]``.

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
    try:
        return decode(file, "the file", orientation)
    except ImageError as error:
        reason = "the image is damaged: only a part of it can be read"
        raise RequestError(HTTPStatus.BAD_REQUEST, reason) from error


def make_answer(
    service: Service, image: Tensor, detections: Detections, threshold: float | Sequence[float], *, picture: bool
) -> dict[str, Any]:
    """Makes the answer to an image; `tailseg.inference.schema` has its JSON schema.

    Args:
        service: the model, its name and its classes.
        image: uint8 RGB ``[3, h, w]``.
        detections: all detections.
        threshold: the lowest score of the detections in the answer, or one for each label.
        picture: with the image and the detections in it, a JPEG file in base64.

    Returns:
        The answer, ready for JSON.

    Raises:
        RequestError: the picture cannot be drawn.
    """
    predictor = service.predictor
    shown = detections.above(threshold)
    ids = [category.id for category in predictor.categories]
    records = shown.to_coco(0, ids)
    names = {category.id: category.name for category in predictor.categories}
    answer = {
        "model": service.model,
        "width": shown.width,
        "height": shown.height,
        "detections": [
            {"category": names[record["category_id"]], **{k: v for k, v in record.items() if k != "image_id"}}
            for record in records
        ],
    }
    if picture:
        drawn = draw(Image.fromarray(image.permute(1, 2, 0).numpy()), shown, predictor.names, predictor.groups)
        try:
            answer["picture"] = base64.b64encode(to_jpeg(drawn, quality=90)).decode("ascii")
        except ImageError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
    return answer


def describe_model(service: Service) -> dict[str, Any]:
    """Describes the model: its name, and the name, frequency group and threshold of each class."""
    predictor, threshold = service.predictor, service.threshold
    by_label = [threshold] * len(predictor.names) if isinstance(threshold, int | float) else list(threshold)
    rows = zip(predictor.categories, predictor.groups, by_label, strict=True)
    return {
        "model": service.model,
        "version": __version__,
        "classes": [
            {"category_id": category.id, "category": category.name, "group": group, "threshold": least}
            for category, group, least in rows
        ],
    }


def _too_large(pixels: str) -> RequestError:
    limit = f"expected at most {MAX_PIXELS // 10**6} million"
    return RequestError(HTTPStatus.BAD_REQUEST, f"the image has {pixels} pixels: {limit}. Make it smaller")


def list_pages(*, report: bool) -> dict[str, str]:
    """The path of each page of the server, which may have a report, and the methods that it allows."""
    paths = ("/", *["/report"] * report, "/model", "/openapi.json")
    return {**dict.fromkeys(paths, "GET, HEAD"), "/predict": "POST"}


@cache
def build_description(*, report: bool) -> bytes:
    """Builds the OpenAPI description of the server, which may have a report, with the JSON schemas of its answers."""

    def answer(description: str, schema: str) -> dict[str, Any]:
        reference = {"$ref": f"#/components/schemas/{schema}"}
        return {"description": description, "content": {"application/json": {"schema": reference}}}

    number = {"type": "number", "minimum": 0, "maximum": 1}
    page = {"description": "The page.", "content": {"text/html": {}}}
    report_page = {"get": {"summary": "The report of the run.", "responses": {"200": page}}}
    binary = {f"image/{name}": {} for name in ("jpeg", "png", "webp", "gif")} | {"application/octet-stream": {}}
    predict = {
        "summary": "Detect objects in an image.",
        "operationId": "predict",
        "parameters": [
            {
                "name": "threshold",
                "in": "query",
                "schema": number,
                "description": "The lowest score of the detections; by default that of each class, see /model.",
            },
            {
                "name": "picture",
                "in": "query",
                "schema": {"type": "boolean", "default": False},
                "description": "Whether the answer has a picture of the detections.",
            },
        ],
        "requestBody": {
            "required": True,
            "description": f"An image file of at most {MAX_UPLOAD_BYTES:,} bytes and {MAX_PIXELS:,} pixels.",
            "content": binary,
        },
        "responses": {
            "200": answer("The detections, best first.", "answer"),
            "400": answer("The image or the threshold cannot be used.", "error"),
            "403": answer("The request comes from a page of another site, or names another host.", "error"),
            "411": answer("The request does not state the length of the file.", "error"),
            "413": answer("The file is too large.", "error"),
            "415": answer("The body is a form and not an image file.", "error"),
            "500": answer("The detector failed.", "error"),
        },
    }
    model = {
        "summary": "Describe the model.",
        "operationId": "model",
        "responses": {"200": answer("The model.", "model")},
    }
    description = {
        "openapi": "3.1.0",
        "info": {"title": "tailseg serve", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/predict": {"post": predict},
            "/model": {"get": model},
            "/": {"get": {"summary": "The page that takes images.", "responses": {"200": page}}},
            **({"/report": report_page} if report else {}),
        },
        "components": {"schemas": read_definitions("#/components/schemas/")},
    }
    return _to_json(description)


@cache
def build_try_page(threshold: float | None, orientation: str, *, report: bool) -> bytes:
    """Builds the page that sends images to this server and shows what was detected.

    Args:
        threshold: the value of its field; None leaves it empty, which stands for the thresholds of the classes.
        orientation: whether the page turns an image as its EXIF data says, as the model does.
        report: whether it links to the report.

    Returns:
        The page in UTF-8.
    """
    page = build_page(
        "try.html",
        styles=["base", "try"],
        scripts=["elements", "try"],
        requests="'self'",
        title="tailseg: try an image",
        threshold="" if threshold is None else f"{threshold:g}",
        orientation=orientation,
        report=report,
    )
    return page.encode()


class _Handler(BaseHTTPRequestHandler):
    service: ClassVar[Service]
    batcher: ClassVar[Batcher]
    reading: ClassVar[threading.Semaphore]
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
        with suppress(ConnectionError, TimeoutError):  # the client has left
            try:
                check_sender(dict(self.headers.items()), name=self.service.name)
                url = _split_url(self.path)
                self._require_page(url.path)
                content, content_type = self._post(url) if self.command == "POST" else self._get(url)
            except RequestError as error:
                self._refuse(error.status, str(error), allowed=error.allowed)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001 - the sender of an image gets every error
                reason = str(error).strip() or type(error).__name__
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"the image cannot be used: {reason}")
            else:
                self._send(HTTPStatus.OK, content, content_type)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815 - names of http.server

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answers a request that http.server cannot read in JSON, as all errors."""
        with suppress(ConnectionError, TimeoutError):
            self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _refuse(self, status: HTTPStatus, reason: str, *, allowed: str = "") -> None:
        """Answers, and reads the rest of the body: a client that is still sending would lose the answer."""
        self.close_connection = True
        self._send(status, _to_json({"error": reason}), "application/json", allowed=allowed)
        with suppress(OSError):  # the other end may have closed it
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(65536):
                pass

    def _require_page(self, path: str) -> None:
        pages = list_pages(report=self.service.report is not None)
        if path not in pages:
            reason = f"there is no such page: expected one of {', '.join(pages)}"
            raise RequestError(HTTPStatus.NOT_FOUND, reason)
        if self.command not in pages[path].split(", "):
            reason = f"{path} takes {pages[path]}, not {self.command}"
            raise RequestError(HTTPStatus.METHOD_NOT_ALLOWED, reason, allowed=pages[path])

    def _get(self, url: SplitResult) -> tuple[bytes, str]:
        report = self.service.report
        if url.path == "/model":
            return _to_json(describe_model(self.service)), "application/json"
        if url.path == "/openapi.json":
            return build_description(report=report is not None), "application/json"
        if url.path == "/report" and report is not None:
            return report, HTML
        threshold = self.service.threshold
        single = threshold if isinstance(threshold, int | float) else None
        return build_try_page(single, self.service.predictor.orientation, report=report is not None), HTML

    def _post(self, url: SplitResult) -> tuple[bytes, str]:
        if self.headers.get_content_maintype() == "multipart":
            expected = "send the image file itself as the body, not a form: curl --data-binary @FILE"
            raise RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, expected)
        threshold = _read_threshold(url.query, self.service.threshold)
        picture = _read_flag(url.query, "picture")
        length = _read_length(self.headers.get("Content-Length", ""))
        if length > MAX_UPLOAD_BYTES:
            limit = f"expected at most {MAX_UPLOAD_BYTES // 10**6} MB"
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has {length / 1e6:.1f} MB: {limit}")
        file = self.rfile.read(length)
        if len(file) < length:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"only {len(file):,} of the file's {length:,} bytes arrived")
        self._server.end_limit(self.connection)
        with self.reading:
            image = read_upload(file, self.service.predictor.orientation)
            detections = self.batcher.detect(image)
            answer = make_answer(self.service, image, detections, threshold, picture=picture)
        return _to_json(answer), "application/json"

    def _send(self, status: HTTPStatus, content: bytes, content_type: str, *, allowed: str = "") -> None:
        self._server.start_limit(self.connection)
        self.send_response(status)
        if allowed:
            self.send_header("Allow", allowed)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", PAGE_POLICY if content_type == HTML else POLICY)
        self.end_headers()
        if self.command != "HEAD":
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


def _read_flag(query: str, name: str) -> bool:
    text = (parse_qs(query).get(name) or ["false"])[-1]
    if text not in ("true", "false"):
        raise RequestError(HTTPStatus.BAD_REQUEST, f"{name}: expected true or false, got {text[:20]!r}")
    return text == "true"


def _to_json(content: object) -> bytes:
    return json.dumps(content).encode()
