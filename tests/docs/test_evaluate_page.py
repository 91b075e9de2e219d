"""The code of the page about evaluation from Python runs, in its order."""

import json

from .test_pages import blocks


def test_the_pages_blocks_run(tmp_path, monkeypatch, capsys):
    box = [10, 10, 20, 20]
    images = [{"id": i, "height": 50, "width": 50, "file_name": f"{i}.jpg", "site": f"s{i % 2}"} for i in range(12)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0} for i in range(12)]
    annotations = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "ant"}]}
    records = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.5} for i in range(12)]
    content = {"train": annotations, "val": annotations, "results": records[::2], "other": records}
    for name, data in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    monkeypatch.chdir(tmp_path)
    code = "\n".join(block.code for block in blocks("how-to/evaluate-from-python.md") if block.language == "python")
    exec(code, {})
    printed = capsys.readouterr().out
    assert "group='c'" in printed or "group='f'" in printed
    assert printed.count("better") > 2
    assert "site s0 6 1.0 " in printed
