"""`tailseg report`, `tailseg serve`, and the report that training leaves."""

import base64
import contextlib
import http.client
import io
import json
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from tailseg.cli import main
from tailseg.inference import Predictor
from tailseg.inference.schema import read_schema
from tailseg.report import server as serving
from tailseg.report.run import read_run
from tailseg.report.server import Batcher, Service, check_sender, make_server
from tailseg.structures import Detections

from .conftest import SMALL

DATA = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test"]


def test_training_leaves_a_report(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert "<title>small</title>" in text
    assert "pictures are missing" not in text


def test_training_without_a_report(tmp_path: Path) -> None:
    assert main(["train", "tiny_gumbel", *DATA, *SMALL, f"--run.out={tmp_path}", "--no-report"]) == 0
    assert (tmp_path / "metrics.json").is_file()
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_fails_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html" / "in the way").mkdir(parents=True)
    assert main(["train", "tiny_gumbel", *DATA, *SMALL, f"--run.out={tmp_path}"]) == 0
    shown = capsys.readouterr()
    assert "no report was written" in shown.err
    assert "APr" in shown.out


def test_runs_that_make_different_things_of_one_file_do_not_share_it(run: Path, photos: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.json"
    content = json.loads((photos.parent / "val.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    val.write_text(json.dumps(content))
    one, other = (Path(shutil.copytree(run, tmp_path / name)) for name in ("one", "other"))
    for folder, crowds in ((one, "ignore"), (other, "objects")):
        recipe = json.loads((folder / "recipe.json").read_text())
        recipe["resolved"]["data"] |= {"val": str(val), "val_images": str(photos), "crowds": crowds}
        (folder / "recipe.json").write_text(json.dumps(recipe))
    first = read_run(one)
    assert read_run(other, like=first).annotations.num_objects == first.annotations.num_objects + 1


def test_report_compares_runs_and_says_where_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, page = shutil.copytree(run, tmp_path / "other"), tmp_path / "both.html"
    assert main(["report", str(run), str(other), "--out", str(page), "--title", "a <b>"]) == 0
    assert "both.html" in capsys.readouterr().out
    assert "<title>a &lt;b&gt;</title>" in page.read_text()


def test_a_run_whose_training_set_is_gone_is_reported_from_its_checkpoint(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    recipe = json.loads((moved / "recipe.json").read_text())
    recipe["resolved"]["data"] |= {"train": "gone.json", "val": str(photos.parent / "val.json")}
    (moved / "recipe.json").write_text(json.dumps(recipe))
    assert main(["report", str(moved)]) == 0
    assert "The training set was not found" in (moved / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name at least one run"),
        (["no/such/run"], 1, "no run in no/such/run"),
        (["RUN", "--score-threshold", "2"], 2, "in [0, 1]"),
        (["EMPTY"], 1, "evaluate the run first"),
    ],
)
def test_report_called_wrongly(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    shutil.copy(run / "recipe.json", tmp_path)
    places = {"RUN": str(run), "EMPTY": str(tmp_path)}
    assert main(["report", *(places.get(argument, argument) for argument in arguments)]) == code
    assert message in capsys.readouterr().err


def test_results_of_another_data_set_are_refused(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((photos.parent / "val.json").read_text())
    for image in content["images"]:
        image["id"] += 1000
        image["file_name"] = image["file_name"].replace(".", "_of_another.")
    for annotation in content["annotations"]:
        annotation["image_id"] += 1000
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert main(["report", str(run), "--val", str(tmp_path / "val.json"), "--out", str(tmp_path / "r.html")]) == 1
    assert "image_id" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[tuple[str, int]]:
    """Host and port of a server of the run."""
    report = (run / "report.html").read_bytes()
    service = Service(Predictor.from_run(run), report, "127.0.0.1", model=run.name, batch_size=2)
    server = make_server(service, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ("127.0.0.1", server.server_address[1])
    server.shutdown()
    thread.join()
    server.server_close()


def ask(address, method="GET", path="/", body=None, **headers):
    """Status and JSON (or text) of the answer."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, json.loads(content) if "json" in answer.headers["Content-Type"] else content


def test_serve_finds_objects_in_an_image(address, run: Path, photos: Path) -> None:
    photo = min(photos.iterdir())
    status, answer = ask(address, "POST", "/predict?threshold=0", photo.read_bytes())
    assert status == 200
    validate(answer, "answer")
    predictor = Predictor.from_run(run)
    expected = predictor(photo)
    assert (answer["model"], answer["width"], answer["height"]) == ("small", expected.width, expected.height)
    assert answer["detections"]
    assert [each["score"] for each in answer["detections"]] == pytest.approx(expected.scores.tolist())
    assert [each["category"] for each in answer["detections"]] == [predictor.names[i] for i in expected.labels]
    assert [each["segmentation"] for each in answer["detections"]] == list(expected.masks or ())
    assert "picture" not in answer
    assert ask(address, "POST", "/predict?threshold=1", photo.read_bytes())[1]["detections"] == []


def test_serve_draws_a_picture_for_who_asks(address, photos: Path) -> None:
    status, answer = ask(address, "POST", "/predict?picture=true", min(photos.iterdir()).read_bytes())
    assert status == 200
    validate(answer, "answer")
    with Image.open(io.BytesIO(base64.b64decode(answer["picture"]))) as picture:
        assert picture.format == "JPEG"
    status, answer = ask(address, "POST", "/predict?picture=1", min(photos.iterdir()).read_bytes())
    assert (status, answer["error"]) == (400, "picture: expected true or false, got '1'")


def validate(answer: object, part: str) -> None:
    """Checks an answer against the part of the schema."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = read_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]}).validate(answer)


def test_serve_describes_its_model(address, run: Path) -> None:
    status, model = ask(address, path="/model")
    assert status == 200
    validate(model, "model")
    predictor = Predictor.from_run(run)
    assert [each["category"] for each in model["classes"]] == list(predictor.names)
    assert {each["threshold"] for each in model["classes"]} == {0.3}


def test_the_description_of_the_server_is_whole(address) -> None:
    """Each path that it names answers, each reference has its schema, and an error is as described."""
    status, description = ask(address, path="/openapi.json")
    assert status == 200
    assert description["openapi"] == "3.1.0"
    for path, methods in description["paths"].items():
        assert ask(address, *(("POST", path, b"x") if "post" in methods else ("GET", path)))[0] in (200, 400)
    references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(description))
    assert {"answer", "error", "model"} <= set(references) <= description["components"]["schemas"].keys()
    validate(ask(address, "POST", "/predict", b"x")[1], "error")


def test_what_predict_writes_is_as_the_schema_says(run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    images = [str(min(photos.iterdir())), str(tmp_path / "bad.jpg")]
    assert (
        main(["predict", str(run), *images, f"--out={tmp_path / 'out'}", "--no-pictures", "--score-threshold=0"]) == 1
    )
    validate(json.loads((tmp_path / "out/results.json").read_text()), "list")
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert ["error" in line for line in lines] == [False, True]
    for line in lines:
        validate(line, "line")


def test_requests_at_one_time_are_one_batch_and_get_their_own_answers() -> None:
    """The detector waits until three images are there; one of them fails alone."""
    sizes = []

    def detect(images):
        sizes.append(len(images))
        if any(image.shape[-1] == 2 for image in images):
            raise RuntimeError("too narrow")
        return [
            Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), None, *image.shape[1:])
            for image in images
        ]

    batcher = Batcher(detect, 3)
    serving.BATCH_SECONDS, before = 20.0, serving.BATCH_SECONDS
    try:
        with ThreadPoolExecutor(3) as threads:
            results = [
                threads.submit(batcher.detect, torch.zeros(3, 5, width, dtype=torch.uint8)) for width in (1, 2, 3)
            ]
            assert [results[place].result().width for place in (0, 2)] == [1, 3]
            with pytest.raises(RuntimeError, match="too narrow"):
                results[1].result()
    finally:
        serving.BATCH_SECONDS = before
    assert sizes == [3, 1, 1, 1]


def test_serve_shows_its_pages_and_no_files(address) -> None:
    assert "Drop images here" in ask(address)[1]
    assert "<title>small</title>" in ask(address, path="/report")[1]
    for path in ("/recipe.json", "/../recipe.json", "/%2e%2e/recipe.json", "/page.py"):
        assert ask(address, path=path)[0] == 404


def test_no_answer_is_taken_for_a_page_that_may_do_more(address) -> None:
    """The report states its own policy, with the sum of its script."""
    for path in ("/", "/report", "/nothing"):
        connection = http.client.HTTPConnection(*address, timeout=60)
        connection.request("GET", path)
        headers = connection.getresponse().headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert policy.endswith("frame-ancestors 'none'")
        assert policy.startswith("default-src 'none'") == (path == "/nothing")
        connection.close()


def test_serve_says_what_is_wrong_with_an_image(address, photos: Path, tmp_path: Path) -> None:
    image = min(photos.glob("*.jpg")).read_bytes()
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    Image.new("1", (30_000, 30_000)).save(tmp_path / "large.png")
    for body, message in (
        ((tmp_path / "large.png").read_bytes(), "far too many pixels: expected at most 50 million"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x01IHDR\0", "expected a JPEG"),
        (b"no image", "expected a JPEG, PNG, WebP or GIF"),
        (image[: len(image) // 2], "damaged"),
        ((tmp_path / "bomb.png").read_bytes(), "9000 x 9000 pixels: expected at most 50 million"),
        (b"", "expected a JPEG"),
    ):
        status, answer = ask(address, "POST", "/predict", body)
        assert status == 400
        assert message in answer["error"]
    status, answer = ask(address, "POST", "/predict?threshold=high", image)
    assert (status, answer["error"]) == (400, "threshold: expected a number in [0, 1], got 'high'")


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /predict HTTP/1.1\r\nContent-Length: \xb2\r\n", b"411"),  # a digit, but no number
        (b"POST /predict HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n", b"411"),
        (b"GET http://[ HTTP/1.1\r\n", b"400"),
    ],
)
def test_serve_answers_a_malformed_request(request_: bytes, status: bytes, address, capfd) -> None:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(request_ + HOST + b"\r\n")
        assert connection.makefile("rb").readline().split()[1] == status
    assert capfd.readouterr().err == ""


def exchange(address, request_: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to a request as it stands."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(request_ + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return status.split()[1], dict(line.split(b": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("request_", "status", "allowed"),
    [
        (b"GET /predict", b"405", b"POST"),
        (b"DELETE /predict", b"405", b"POST"),
        (b"POST /model", b"405", b"GET, HEAD"),
        (b"PUT /", b"405", b"GET, HEAD"),
        (b"DELETE /nothing", b"404", None),
        (b"BREW /", b"501", None),
        (b"GET / extra", b"400", None),
        (b"GET /" + b"x" * 70_000, b"414", None),
    ],
)
def test_a_wrong_method_or_line_gets_an_error_in_json(request_: bytes, status: bytes, allowed, address, capfd) -> None:
    got, headers, body = exchange(address, request_)
    assert (got, headers[b"Content-Type"], headers.get(b"Allow")) == (status, b"application/json", allowed)
    validate(json.loads(body), "error")
    assert capfd.readouterr().err == ""


def test_head_has_the_headers_of_get_alone(address) -> None:
    (status, headers, body), (_, of_get, page) = (
        exchange(address, method + b" /report") for method in (b"HEAD", b"GET")
    )
    assert (status, body) == (b"200", b"")
    assert int(headers[b"Content-Length"]) == int(of_get[b"Content-Length"]) == len(page)


def test_a_server_without_a_report_names_none(run: Path) -> None:
    server = make_server(Service(Predictor.from_run(run), None, "127.0.0.1"), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = ("127.0.0.1", server.server_address[1])
        status, answer = ask(address, path="/report")
        assert status == 404
        assert answer["error"].endswith("expected one of /, /model, /openapi.json, /predict")
        assert "/report" not in ask(address, path="/openapi.json")[1]["paths"]
        assert "/report" not in ask(address)[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_who_closes_the_page_leaves_no_trace_in_the_terminal(address, capfd) -> None:
    with socket.create_connection(address, timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 9\r\n" + HOST + b"\r\nhalf")
        time.sleep(0.2)
    time.sleep(0.2)
    assert ask(address)[0] == 200
    assert capfd.readouterr().err == ""


def test_serve_reads_no_file_that_is_too_large(address) -> None:
    status, answer = ask(address, "POST", "/predict", b"", Content_Length=str(serving.MAX_UPLOAD_BYTES + 1))
    assert status == 413
    assert "at most 20 MB" in answer["error"]


def test_serve_says_how_to_send_a_file_to_who_sends_a_form(address) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--x--\r\n'
    status, answer = ask(address, "POST", "/predict", form, Content_Type="multipart/form-data; boundary=x")
    assert status == 415
    assert "curl --data-binary @FILE" in answer["error"]


def test_a_body_that_is_too_large_gets_its_answer_before_the_connection_ends(address) -> None:
    """Most clients read no answer before all is sent; what is closed with bytes unread is reset, answer included."""
    for path, status in ((f"/predict?{'x' * 10}", 413), ("/nothing", 404)):
        assert ask(address, "POST", path, b"x" * (serving.MAX_UPLOAD_BYTES + 30_000_000))[0] == status


def test_a_hundred_requests_at_once_all_get_an_answer(address, photos: Path) -> None:
    image = min(photos.iterdir()).read_bytes()
    start = threading.Barrier(100)

    def one(number: int) -> int:
        start.wait()
        if number % 2:
            return ask(address)[0]
        return ask(address, "POST", "/predict", image)[0]

    with ThreadPoolExecutor(100) as threads:
        assert [*threads.map(one, range(100))] == [200] * 100


def test_a_connection_has_a_total_time_limit(address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps no thread and no descriptor of the server for ever."""
    monkeypatch.setattr(serving, "TOTAL_SECONDS", 1.0)
    start = time.monotonic()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 1000\r\n" + HOST + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < start + 30:
                connection.sendall(b"x")
                time.sleep(0.1)
    assert 0.9 < time.monotonic() - start < 20
    assert ask(address)[0] == 200


def test_an_image_that_cannot_be_drawn_or_looked_at_is_an_answer(
    address, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (70_000, 4)).save(tmp_path / "long.png")
    status, answer = ask(address, "POST", "/predict?picture=true", (tmp_path / "long.png").read_bytes())
    assert status == 400
    assert "70000 x 4 pixels cannot be written: the longest side of a JPEG file is 65,500" in answer["error"]

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Predictor, "_detect_batch", fail)
    status, answer = ask(address, "POST", "/predict", min(photos.iterdir()).read_bytes())
    assert (status, answer["error"]) == (500, "the image cannot be used: out of memory")


def test_half_a_file_is_an_answer(address) -> None:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 9\r\n" + HOST + b"\r\nhalf")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert b" 400 " in answer
    assert b"only 4 of the file's 9 bytes arrived" in answer


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Host": "127.0.0.1:8000"}, True),
        ({"Host": "localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": "rebound.example:8000"}, False),
        ({"Host": "127.0.0.1.example"}, False),
        ({"Host": "[::1"}, False),
        ({}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "https://elsewhere.example"}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, False),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"}, False),
        ({"Host": "127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_serve_answers_its_own_pages_alone(headers: dict[str, str], *, allowed: bool) -> None:
    if allowed:
        check_sender(headers, name="127.0.0.1")
    else:
        with pytest.raises(serving.RequestError):
            check_sender(headers, name="127.0.0.1")


def test_a_refusal_reaches_the_one_who_asks(address, photos: Path) -> None:
    assert ask(address, Host="rebound.example")[0] == 403
    image = min(photos.iterdir()).read_bytes()
    assert ask(address, "POST", "/predict", image, Origin="https://elsewhere.example")[0] == 403


def test_an_image_chosen_in_a_browser_is_drawn_there(browser, address, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "<i>bad.jpg"
    bad.write_bytes(b"no image")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("http://{}:{}/".format(*address))
    page.locator("#threshold").fill("0")
    page.locator("#file").set_input_files([min(photos.iterdir()), bad])
    page.wait_for_selector("article .error")
    assert page.locator("article h2").first.inner_text() == "<i>bad.jpg"
    assert "cannot be read as an image" in page.locator("article .error").inner_text()
    assert page.evaluate("document.querySelector('article canvas').width") > 0
    everything = page.locator("article canvas").get_attribute("aria-label")
    drawn = page.evaluate("document.querySelector('article canvas').toDataURL()")
    page.locator("#threshold").fill("1")
    assert page.locator("article canvas").get_attribute("aria-label") == "0 objects" != everything
    assert page.evaluate("document.querySelector('article canvas').toDataURL()") != drawn
    page.locator("#threshold").fill("")
    assert page.locator("article canvas").get_attribute("aria-label") != everything
    page.get_by_role("link", name="the run's report").click()
    page.wait_for_selector("#controls:not([hidden])")
    assert complaints == []
    page.close()
