"""Lists are read piece by piece, whatever stands between the records, and broken ones are named."""

import gzip
import json
import math

import pytest

from tailseg.evaluation import json_files
from tailseg.evaluation.json_files import read_records

RECORDS = [{"id": i, "text": "a }, { b" if i % 5 == 0 else "x", "inner": {"list": [1, {"k": i}]}} for i in range(60)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(json_files, "PIECE", 300)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_pieces_together_are_the_list(tmp_path, indent, packed):
    records = [record | {"text": "x"} for record in RECORDS]
    text = json.dumps(records, indent=indent).encode()
    path = tmp_path / "list.json"
    path.write_bytes(gzip.compress(text) if packed else text)
    seen = []

    pieces = list(read_records(path, lambda *progress: seen.append(progress)))

    assert [record for piece in pieces for record in piece] == records
    assert len(pieces) > 5
    size = path.stat().st_size
    assert seen[-1] == (size, size)


def test_where_the_text_cannot_be_cut_the_file_is_read_as_a_whole(tmp_path):
    path = tmp_path / "list.json"
    records = [{"id": 0, "inner": [{"k": i, "pad": "x" * 40} for i in range(60)]}]
    path.write_text(json.dumps(records))

    assert list(read_records(path)) == [records]


@pytest.mark.parametrize("extra", [{"inner": [{"k": i, "pad": "x" * 40} for i in range(60)]}, {"text": "a }, {" * 400}])
def test_where_a_later_cut_does_not_work_out_nothing_is_lost_or_read_twice(tmp_path, extra):
    path = tmp_path / "list.json"
    records = [{"id": i} | (extra if i > 90 else {}) for i in range(100)]
    path.write_text(json.dumps(records))

    pieces = list(read_records(path))

    assert [record for piece in pieces for record in piece] == records
    assert len(pieces) > 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(RECORDS)[:-30], "list.json cannot be read as JSON"),
        (json.dumps([{"id": i} for i in range(200)])[:-1], "list.json cannot be read as JSON: .* about character 2"),
        ("", "list.json cannot be read as JSON"),
        (
            "[" * 100_000,
            "list.json cannot be read as JSON: .*(recursion|Stack overflow)",
        ),  # before and since Python 3.14
        ('{"a": {"b": 1}, "c": [{}, {}]}', "expected a list of result records, got dict"),
        (json.dumps([{"id": i} for i in range(99)] + [{"id": math.inf}]), "it holds the value Infinity"),
        (
            json.dumps([*RECORDS, {"box": [1, {"x": math.nan}]}]),
            rf"value NaN, .*\('box' of record {len(RECORDS)}\): re",
        ),
        (json.dumps([[{}, {"x": math.inf}], {"x": math.nan}] * 9), r"Infinity, .* number \(record 0\): rem"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "list.json"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        list(read_records(path))


def test_what_is_no_list_is_not_searched_for_objects(tmp_path, monkeypatch):
    """Of a checkpoint of gigabytes, named by mistake, the first bytes are enough."""
    path = tmp_path / "model.pth"
    path.write_bytes(b"PK\xff" + bytes(10_000))
    searched = []
    monkeypatch.setattr(json_files, "_find_last_cut", searched.append)

    with pytest.raises(ValueError, match=r"model.pth cannot be read as JSON"):
        list(read_records(path))
    assert searched == []


def test_what_is_no_list_is_named_though_a_piece_ends_within_a_character(tmp_path):
    path = tmp_path / "object.json"
    path.write_text(json.dumps({"k": "ü" * 400}, ensure_ascii=False))

    with pytest.raises(ValueError, match=r"object.json: expected a list of result records, got dict"):
        list(read_records(path))


def test_a_broken_gzip_file_is_named(tmp_path):
    path = tmp_path / "list.json"
    packed = gzip.compress(json.dumps(RECORDS).encode())
    for broken in (packed[:-40], packed[:20] + b"\xff" * 40 + packed[60:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"list.json cannot be read as JSON"):
            list(read_records(path))
