"""The records of objects as JSON text, in memory and in a temporary file."""

import json
import mmap
from pathlib import Path

import pytest

from tailseg.annotations import json_file
from tailseg.annotations.convert import import_labels
from tailseg.annotations.formats import registry
from tailseg.annotations.json_file import RecordFile, decode_record, write_sections
from tailseg.annotations.writers.records import ObjectRecords

RECORDS = [{"id": number, "segmentation": [[0.5, 1, number, 2, 3, 4]]} for number in (7, 3, 5)]


@pytest.mark.parametrize(("limit", "kind"), [(1, mmap.mmap), (1 << 20, bytes)])
def test_record_file_gives_back_what_was_added(monkeypatch, limit, kind):
    monkeypatch.setattr(json_file, "MIN_MAPPED_BYTES", limit)
    file = RecordFile()
    for record in RECORDS:
        file.add(record)
    assert file.count == 3
    records, text = file.finish()
    assert isinstance(text, kind)
    assert list(map(decode_record, records)) == RECORDS
    assert RecordFile().finish() == ([], b"")


def test_large_texts_are_written_in_parts(monkeypatch, tmp_path):
    for name in ("MIN_MAPPED_BYTES", "RELEASED_AT_ONCE", "WRITTEN_AT_ONCE"):
        monkeypatch.setattr(json_file, name, 2)
    file = RecordFile()
    for record in RECORDS:
        file.add(record)
    records, text = file.finish()
    write_sections(tmp_path / "out.json", [{"id": 1}], records, [{"id": 2}], {"info": {"year": 2026}}, text)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {
        "info": {"year": 2026},
        "images": [{"id": 1}],
        "annotations": RECORDS,
        "categories": [{"id": 2}],
    }
    write_sections(tmp_path / "empty.json", [], [], [], {})
    assert json.loads((tmp_path / "empty.json").read_text())["annotations"] == []


def test_records_change_when_they_are_assigned():
    objects = ObjectRecords([1, 2])
    objects[1] = RECORDS[:2]
    objects[2] = RECORDS[2:]
    objects[1][0]["id"] = 99  # a copy
    assert objects[1] == RECORDS[:2]
    assert objects.num_objects == 3
    assert [decode_record(text)["id"] for text in objects.list_texts([1, 2])] == [3, 5, 7]
    assert [decode_record(text)["id"] for text in objects.select([1]).list_texts([1])] == [3, 7]
    objects[1] = [record | {"id": 1} for record in objects[1][:1]]
    assert objects[1] == [RECORDS[0] | {"id": 1}]
    with pytest.raises(KeyError):
        objects[3]


@pytest.mark.parametrize("number", ["1e999", "1.5", '"x"', "null"])
def test_records_without_a_usable_id_are_counted(tmp_path, number):
    """A number that is out of range for msgspec was a traceback."""
    good = '{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}'
    bad = good.replace('"image_id": 1', f'"image_id": {number}')
    (tmp_path / "my.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}], '
        f'"categories": [{{"id": 1, "name": "ant"}}], "annotations": [{good}, {bad}]}}'
    )
    labels, losses = import_labels(tmp_path / "my.json", tmp_path / "out.json")
    assert labels.objects.num_objects == 1
    assert losses == ["1 record of images or classes that the file lacks"]


def test_labels_of_a_folder_are_converted_once(monkeypatch, tmp_path):
    """A folder was read for its annotations, and again for its records."""
    labels = tmp_path / "my.xml"
    labels.write_text(
        "<annotations><version>1.1</version><image id='0' name='a.jpg' width='9' height='9'>"
        "<polygon label='ant' points='1,1;5,1;5,5'/></image></annotations>"
    )
    calls = []
    convert = registry._convert
    monkeypatch.setattr(registry, "_convert", lambda *arguments: calls.append(arguments) or convert(*arguments))
    written, _ = import_labels(Path(labels), tmp_path / "out.json")
    assert len(calls) == 1
    assert written.objects.num_objects == 1
