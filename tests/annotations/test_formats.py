"""Labels of other formats, written here by their published definitions, and read by their path alone.

`test_format_tools.py` reads files that the formats' own tools wrote.
"""

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations.formats import parsers, rings
from tailseg.annotations.formats.label_studio import decode_brush, encode_brush
from tailseg.annotations.formats.registry import find_validation, list_splits, read_sections
from tailseg.annotations.formats.voc import make_color
from tailseg.annotations.json_file import decode_record
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import open_file, read_dataset
from tailseg.annotations.types import RunLengths

HEIGHT, WIDTH = 40, 60
RING = [[10.0, 5.0], [30.0, 5.0], [30.0, 25.0], [10.0, 25.0]]
"""A square of 20 x 20 pixels."""
HOLE = [[15.0, 10.0], [20.0, 10.0], [20.0, 15.0], [15.0, 15.0]]
PART = [[40.0, 30.0], [50.0, 30.0], [50.0, 35.0], [40.0, 35.0]]
BOX = [32.0, 4.0, 8.0, 6.0]


def make_mask(*, hole: bool = True) -> np.ndarray:
    """The square, with the hole."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:25, 10:30] = True
    if hole:
        mask[10:15, 15:20] = False
    return mask


def draw(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (WIDTH, HEIGHT)).save(path)
    return path


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def to_png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def describe(path: Path) -> list[tuple[str, str, float, list[float]]]:
    """The image, the class, the number of the mask's pixels (-1 without a mask) and the box of each object."""
    annotations, found = open_file(path, needs_sizes=True), []
    for index in range(annotations.num_images):
        record = annotations.get_record(index)
        rows = range(*annotations.objects.offsets[index : index + 2].tolist())
        for row, label, shape in zip(
            [row for row in rows if not annotations.objects.ignored[row]],
            record.labels,
            record.segmentations,
            strict=True,
        ):
            height, width = annotations.sizes[index].tolist()
            pixels = -1.0 if not annotations.objects.masked[row] else float(draw_shape(shape, height, width).sum())
            box = np.round(annotations.objects.written_boxes[row], 3).tolist()
            name = annotations.names.text(index).split("\n")[0]
            found.append((name, annotations.categories[label].name, pixels, box))
        assert Path(annotations.get_info(index).file).is_file()
    return found


def draw_shape(shape: Any, height: int, width: int) -> np.ndarray:
    if isinstance(shape, dict):
        return rings.decode_mask(RunLengths(size=shape["size"], counts=shape["counts"]))
    return rings.decode_mask(rings.draw_rings(shape, height, width))


def get_losses(path: Path) -> list[str]:
    return [problem.detail for problem in open_file(path).problems if problem.kind.name == "not_kept"]


# YOLO


def to_line(number: int, points: list[list[float]]) -> str:
    return " ".join(map(repr, [number, *(np.array(points) / [WIDTH, HEIGHT]).ravel().tolist()]))


def to_box_line(number: int) -> str:
    x, y, width, height = BOX
    return f"{number} {(x + width / 2) / WIDTH} {(y + height / 2) / HEIGHT} {width / WIDTH} {height / HEIGHT}"


BOMB = "\n".join(
    [
        "a0: &a0 [x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
        "names: *a11",
        "train: .",
    ]
)
"""Lists of lists in YAML: 31 billion texts in half a kilobyte."""


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        draw(tmp_path / "images" / split / "a.jpg")
        write(tmp_path / "labels" / split / "a.txt", f"{to_line(1, RING)}\n\n{to_box_line(0)}\n")
        draw(tmp_path / "images" / split / "empty.jpg")
    return write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("train: images/train\nval: images/val\nnames: [cat, dog]", None),
        ("path: ../DATA\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}", None),
        ("path: no/such/folder\ntrain: ../images/train\nvalid: ../images/val\nnc: 2\nnames: [cat, dog]", "val"),
        ("train: [images/train]\nvalidation: [images/val]\nnames: [cat, dog]", "valid"),
        ("train: train.txt\nnames: [cat, dog]", None),
        ("train: images/train/*.jpg\nnames: [cat, dog]", None),
    ],
)
def test_yolo_names_its_folders_in_many_ways(yolo: Path, text: str, split: str | None) -> None:
    write(yolo, text.replace("DATA", yolo.parent.name))
    write(yolo.with_name("train.txt"), "./images/train/a.jpg\nimages/train/empty.jpg\n")
    name = f"images/{'val' if split else 'train'}/a.jpg"
    wanted = [(name, "dog", 400.0, [10.0, 5.0, 20.0, 20.0]), (name, "cat", -1.0, BOX)]
    path = Path(f"{yolo}:{split}") if split else yolo
    assert describe(path) == wanted
    assert open_file(path).num_images == 2
    assert describe(Path(f"{yolo.parent}:{split}") if split else yolo.parent) == wanted


def test_yolo_folders_without_a_yaml(yolo: Path) -> None:
    yolo.unlink()
    write(yolo.with_name("classes.txt"), "cat\ndog\n")
    assert len(describe(yolo.parent)) == 4
    for image in (yolo.parent / "images/train").iterdir():
        image.rename(image.parent.parent.parent / image.name)
    (yolo.parent / "labels/train/a.txt").rename(yolo.parent / "a.txt")
    write(yolo.with_name("obj.data"), "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    write(yolo.with_name("obj.names"), "cat\ndog\n")
    write(yolo.with_name("train.txt"), "data/a.jpg\ndata/empty.jpg\n")
    assert [item[:2] for item in describe(yolo.with_name("obj.data"))] == [("a.jpg", "dog"), ("a.jpg", "cat")]


def test_yolo_without_a_split_is_all_images(yolo: Path) -> None:
    write(yolo, "nc: 2\nnames: [cat, dog]\n")  # as supervision writes it
    assert open_file(yolo).num_images == 4
    with pytest.raises(DatasetError, match="has no split 'val': expected one of train"):
        open_file(Path(f"{yolo}:val"))


def test_yolo_outlines_with_bridges_are_parts_and_holes(yolo: Path) -> None:
    joined = rings.join_rings([np.array(RING), np.array(HOLE), np.array(PART)])
    write(yolo.parent / "labels/train/a.txt", to_line(0, joined.tolist()))
    assert describe(yolo) == [("images/train/a.jpg", "cat", 400.0 - 25 + 50, [10.0, 5.0, 40.0, 30.0])]


def test_yolo_scores_and_keypoints_are_counted(yolo: Path) -> None:
    write(yolo.parent / "labels/train/a.txt", f"{to_line(0, RING)} 0.9\n{to_box_line(1)} 0.5\n")
    assert get_losses(yolo) == ["2 scores at the end of a line"]
    yolo.write_text(f"{yolo.read_text()}\nkpt_shape: [1, 2]\n")
    write(yolo.parent / "labels/train/a.txt", f"{to_box_line(1)} 0.5 0.5\n")
    assert get_losses(yolo) == ["1 object's keypoints"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt, line 1: class 2, but the data set has the classes 0 to 1"),
        ("0 0.5 0.5 0.1", r"expected a class and 4 numbers \(a box\) or 6 and more \(an outline\), got 4 numbers"),
        ("cat 0.5 0.5 0.1 0.1", "expected a class number and coordinates, got 'cat 0.5"),
        ("0 0.5 nan 0.1 0.1", "expected a class number"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(yolo: Path, line: str, message: str) -> None:
    write(yolo.parent / "labels/train/a.txt", line)
    with pytest.raises(DatasetError, match=message):
        open_file(yolo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/none\nnames: [cat]", "has no image in"),
        ("train: images/train\nnames: [cat, cat]", "is the name of several classes"),
        ("train: images/train\nnames: {1: cat}", "the keys of names must be 0, 1, 2"),
        ("train: images/train\nnames: [[cat]]", r"expected the list names with the classes, got \[\['cat'\]\]"),
        ("train: [{a: b}]\nnames: [cat]", "train must name folders or files"),
        (BOMB, "expected the list names with the classes"),
        ("val: images/val\nnames: [cat, dog]\ntest: !!python/object/apply:os.system ['true']", "recognizes"),
    ],
)
def test_a_wrong_yaml_is_named(yolo: Path, text: str, message: str) -> None:
    write(yolo, text)
    with pytest.raises(DatasetError, match=message):
        open_file(yolo)


def test_yolo_images_stay_in_the_folder(yolo: Path) -> None:
    outside = draw(yolo.parent.parent / "outside" / "b.jpg")
    write(yolo, f"train: {outside.parent}\nnames: [cat, dog]")
    with pytest.raises(DatasetError, match="has no image in"):
        open_file(yolo)
    write(yolo, "train: train.txt\nnames: [cat, dog]")
    write(yolo.with_name("train.txt"), f"{outside}\n")
    with pytest.raises(DatasetError, match="is not in"):
        open_file(yolo)


def test_a_split_is_named_or_found(yolo: Path) -> None:
    assert list_splits(yolo) == ["train", "val"]
    assert find_validation(yolo) == f"{yolo}:val"
    assert find_validation(Path(f"{yolo}:train")) is None
    with pytest.raises(DatasetError, match=r"has no split 'test': expected one of train, val"):
        open_file(Path(f"{yolo}:test"))


# Pascal VOC

VOC = """<annotation><filename>a.jpg</filename>{source}<size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax>
</bndbox></object><object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax>
<ymax>4</ymax></bndbox></object></annotation>"""
PASCAL = "<source><database>The VOC2012 Database</database><annotation>PASCAL VOC2012</annotation></source>"


@pytest.mark.parametrize(
    ("source", "box"), [(PASCAL, [10.0, 5.0, 20.0, 20.0]), ("", [11.0, 6.0, 19.0, 19.0])], ids=["pascal", "others"]
)
def test_voc_boxes(tmp_path: Path, source: str, box: list[float]) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    file = write(tmp_path / "Annotations/a.xml", VOC.format(source=source))
    assert describe(tmp_path) == [("JPEGImages/a.jpg", "dog", -1.0, box)]
    annotations = open_file(tmp_path)
    assert [category.name for category in annotations.categories] == ["cat", "dog"]
    assert annotations.objects.ignored.tolist() == [False, True]  # difficult: left out by the kit's evaluation
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "Annotations/a.jpg")
    assert len(describe(file)) == len(describe(file.parent)) == 1


def test_voc_masks(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", VOC.format(source=PASCAL))
    instances, kinds = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    instances[make_mask()], kinds[make_mask()] = 1, 12  # the number of dog in Pascal VOC
    instances[4, 10:30] = kinds[4, 10:30] = 255
    instances[35, :], kinds[35, :] = 2, 15
    for folder, pixels in (("SegmentationObject", instances), ("SegmentationClass", kinds)):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(pixels, "P")
        picture.putpalette([value for number in range(256) for value in make_color(number)])
        picture.save(tmp_path / folder / "a.png")
    wanted = [
        ("JPEGImages/a.jpg", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
        ("JPEGImages/a.jpg", "person", 60.0, [0.0, 35.0, 60.0, 1.0]),
    ]
    assert describe(tmp_path) == wanted
    write(tmp_path / "ImageSets/Segmentation/train.txt", "a\n")
    assert describe(Path(f"{tmp_path}:train")) == wanted
    with pytest.raises(DatasetError, match="has no list 'val' in ImageSets: expected one of train"):
        open_file(Path(f"{tmp_path}:val"))


def test_voc_masks_with_a_label_map_of_colors(tmp_path: Path) -> None:
    draw(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nfish:10,20,30::\n")
    for folder, color in (("SegmentationObject", (128, 0, 0)), ("SegmentationClass", (10, 20, 30))):
        (tmp_path / folder).mkdir()
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        pixels[make_mask()] = color
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    assert describe(tmp_path) == [("JPEGImages/a.jpg", "fish", 375.0, [10.0, 5.0, 20.0, 20.0])]


@pytest.mark.parametrize("root", ["annotation", "annotations"])
def test_xml_with_entities_is_refused(tmp_path: Path, root: str) -> None:
    secret = write(tmp_path / "secret.txt", "secret")
    for text in (f'<!ENTITY e SYSTEM "file://{secret}">', '<!ENTITY a "aa"><!ENTITY e "&a;&a;">'):
        for before in ("", f"<!--{'x' * 1000}-->"):
            xml = f"{before}<!DOCTYPE x [{text}]><{root}><filename>&e;</filename></{root}>"
            with pytest.raises(DatasetError, match=r"recognizes|declares entities"):
                open_file(write(tmp_path / "a.xml", xml))
            with pytest.raises(DatasetError, match="declares entities"):
                list(parsers.iterate_xml(tmp_path / "a.xml"))


def test_large_xml_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.xml", "<a b='1'><c>2<d/></c><c>3</c></a>")
    for size in (1000, 1):
        monkeypatch.setattr(parsers, "LARGE_BYTES", size)
        seen = [(depth, element.tag, element.text, len(element)) for depth, element in parsers.iterate_xml(file)]
        assert seen[0][:2] == (0, "a")
        assert seen[1:] == [(1, "c", "2", 1), (1, "c", "3", 0)]
    write(file, "<a><c></a>")
    with pytest.raises(DatasetError, match="is not XML: mismatched tag"):
        list(parsers.iterate_xml(file))


# LabelMe


def to_labelme(shapes: list[dict[str, Any]], image: str = "a.jpg") -> dict[str, Any]:
    base = {"group_id": None, "flags": {}, "shape_type": "polygon"}
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [base | shape for shape in shapes],
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def test_labelme(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    png = base64.b64encode(to_png(make_mask()[5:25, 10:30])).decode()
    shapes = [
        {"label": "dog", "points": RING, "group_id": 3},
        {"label": "dog", "points": PART, "group_id": 3},
        {"label": "cat", "points": PART, "group_id": 3},
        {"label": "cat", "points": [[40.0, 10.0], [32.0, 4.0]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[10.0, 5.0], [29.0, 24.0]], "shape_type": "mask", "mask": png},
        {"label": "cat", "points": [[20.0, 20.0], [24.0, 20.0]], "shape_type": "circle"},
        {"label": "cat", "points": [[20.0, 20.0], [24.0, 20.0]], "shape_type": "line"},
    ]
    file = write(tmp_path / "a.json", to_labelme(shapes))
    *exact, circle = describe(tmp_path)
    assert exact == [
        ("a.jpg", "dog", 450.0, [10.0, 5.0, 40.0, 30.0]),
        ("a.jpg", "cat", 50.0, [40.0, 30.0, 10.0, 5.0]),
        ("a.jpg", "cat", -1.0, BOX),
        ("a.jpg", "cat", 375.0, [10.0, 5.0, 20.0, 20.0]),
    ]
    assert circle[2] == pytest.approx(np.pi * 16, rel=0.1)
    assert get_losses(tmp_path) == ["1 shape of type 'line'"]
    assert describe(file) == [*exact, circle]
    write(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\nbird\ncat\n")
    assert [category.name for category in open_file(tmp_path).categories] == ["dog", "bird", "cat"]


@pytest.mark.parametrize("written", ["..\\..\\..\\a.jpg", "/etc/a.jpg", "C:\\photos\\a.jpg"])
def test_names_of_images_stay_in_the_folder(tmp_path: Path, written: str) -> None:
    draw(tmp_path / "a.jpg")
    write(tmp_path / "labels" / "a.json", to_labelme([{"label": "dog", "points": RING}], written))
    assert describe(tmp_path)[0][0] == "a.jpg"


# CVAT

IMAGE = '<annotations><image id="0" name="a.jpg" width="{}" height="{}">{}</image></annotations>'


def test_cvat(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.jpg")
    part = make_mask()[5:25, 10:30].ravel()
    edges = np.flatnonzero(np.diff(part)) + 1
    runs = ",".join(map(str, [0, *np.diff([0, *edges.tolist(), part.size]).tolist()]))
    points, other = (";".join(f"{x},{y}" for x, y in ring) for ring in (RING, PART))
    text = f"""<annotations><version>1.1</version><meta><task><labels>
      <label><name>dog</name></label><label><name>cat</name></label><label><name>none</name></label></labels></task></meta>
      <image id="0" name="a.jpg" width="60" height="40">
        <box label="cat" xtl="32" ytl="4" xbr="40" ybr="10"><attribute name="wet">yes</attribute></box>
        <polygon label="dog" points="{points}" group_id="1"/><polygon label="dog" points="{other}" group_id="1"/>
        <mask label="dog" rle="{runs}" left="10" top="5" width="20" height="20"/>
        <box label="cat" xtl="20" ytl="15" xbr="40" ybr="25" rotation="90"/>
        <ellipse label="cat" cx="20" cy="20" rx="8" ry="4"/><polyline label="cat" points="1,1;2,2"/><tag label="cat"/>
      </image></annotations>"""
    file = write(tmp_path / "annotations.xml", text)
    *exact, ellipse = describe(file)
    assert exact == [
        ("a.jpg", "cat", -1.0, BOX),
        ("a.jpg", "dog", 450.0, [10.0, 5.0, 40.0, 30.0]),
        ("a.jpg", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
        ("a.jpg", "cat", 200.0, [25.0, 10.0, 10.0, 20.0]),
    ]
    assert ellipse[2] == pytest.approx(np.pi * 32, rel=0.1)
    assert get_losses(tmp_path) == ["1 shape of type 'polyline'", "1 tag of images"]
    assert [category.name for category in open_file(tmp_path).categories] == ["dog", "cat", "none"]
    assert decode_record(read_sections(file).annotations[0])["attributes"] == {"wet": "yes"}
    write(file, "<annotations><track id='0' label='a'/></annotations>")
    with pytest.raises(DatasetError, match=r"has tracks \(CVAT for video\)"):
        open_file(file)


def test_numbers_that_json_does_not_know_are_read(tmp_path: Path) -> None:
    polygon = '<polygon label="dog" points=".5,5;+30.5,5.;30.5,025;5e-1,25"/>'
    file = write(tmp_path / "annotations.xml", IMAGE.format(60, 40, polygon))
    (record,) = map(decode_record, read_sections(file).annotations)
    assert record["segmentation"] == [[0.5, 5, 30.5, 5, 30.5, 25, 0.5, 25]]
    assert record["bbox"] == [0.5, 5, 30, 20]


def test_boxes_of_an_image_that_is_too_large_for_masks(tmp_path: Path) -> None:
    box = '<box label="dog" xtl="1" ytl="2" xbr="4" ybr="8"/>'
    file = write(tmp_path / "annotations.xml", IMAGE.format(30_000, 30_000, box))
    (record,) = map(decode_record, read_sections(file).annotations)
    assert record["bbox"] == [1, 2, 3, 6]
    write(file, IMAGE.format(30_000, 30_000, '<polygon label="dog" points="1,1;9,1;9,9"/>'))
    with pytest.raises(DatasetError, match="too large. Cut it into tiles"):
        read_sections(file)


# Label Studio


def test_label_studio(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    draw(tmp_path / "b c.jpg")
    scale = np.array([100 / WIDTH, 100 / HEIGHT])
    sides = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    (x, y), (width, height) = (np.array(BOX[:2]) * scale).tolist(), (np.array(BOX[2:]) * scale).tolist()
    box = {"x": x, "y": y, "width": width, "height": height}
    polygon = {"points": (np.array(RING) * scale).tolist()}
    result = [
        {"id": "1", "type": "rectanglelabels", "value": {**box, "rotation": 0, "rectanglelabels": ["cat"]}, **sides},
        {"id": "2", "type": "polygon", "value": polygon, **sides},
        {"id": "2", "type": "labels", "value": {**polygon, "labels": ["dog"]}, **sides},
        {
            "id": "3",
            "type": "brushlabels",
            "value": {"format": "rle", "rle": encode_brush(make_mask()), "brushlabels": ["dog"]},
            **sides,
        },
        {"id": "4", "type": "choices", "value": {"choices": ["sunny"]}, **sides},
        {"id": "5", "type": "rectanglelabels", "value": {**box, "rotation": 90, "rectanglelabels": ["cat"]}, **sides},
    ]
    cancelled = {"id": 6, "was_cancelled": True, "result": result[:1]}
    tasks = [
        {"id": 1, "data": {"image": "/data/upload/1/a.jpg"}, "annotations": [cancelled, {"id": 7, "result": result}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=photos/b%20c.jpg"}, "annotations": []},
    ]
    file = write(tmp_path / "tasks.json", tasks)
    assert describe(file) == [
        ("a.jpg", "cat", -1.0, BOX),
        ("a.jpg", "dog", 400.0, [10.0, 5.0, 20.0, 20.0]),
        ("a.jpg", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
        ("a.jpg", "cat", 48.0, [26.0, 4.0, 6.0, 8.0]),  # rotated around its upper left corner
    ]
    assert get_losses(file) == ["1 region of type 'choices'"]
    short = [{"image": "a.jpg", "id": 1, "annotator": 1, "label": [{**box, "rectanglelabels": ["cat"], **sides}]}]
    assert describe(write(tmp_path / "short.json", short)) == [("a.jpg", "cat", -1.0, BOX)]


def test_label_studio_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    tasks = [{"id": n, "data": {"image": f"/data/local-files/?d=cam{n}/a.jpg"}, "annotations": []} for n in (1, 2)]
    with pytest.raises(DatasetError, match=r"task 2: '/data/.*cam2/a.jpg' and '/data/.*cam1/a.jpg' have the same last"):
        open_file(write(tmp_path / "tasks.json", tasks))
    for number, task in enumerate(tasks, start=1):
        task["data"] = {"image": f"cam{number}/a.jpg"}
    draw(tmp_path / "cam1" / "a.jpg")
    Image.new("RGB", (7, 5)).save(draw(tmp_path / "cam2" / "a.jpg"))
    annotations = open_file(write(tmp_path / "tasks.json", tasks), needs_sizes=True)
    assert annotations.sizes.tolist() == [[HEIGHT, WIDTH], [5, 7]]


def test_brush_run_lengths() -> None:
    mask = np.random.default_rng(0).random((9, 7)) > 0.5
    assert (decode_brush(encode_brush(mask), 9, 7, "here") == mask).all()
    # label-studio-sdk writes blocks of different values too: encode_rle([0, 255, 0, 255] * 2) of a 1 x 2 image
    bits = (
        f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + "111" + "".join(f"{v:08b}" for v in [0, 255] * 4)
    )
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]
    assert decode_brush(packed, 1, 2, "here").tolist() == [[True, True]]
    for wrong, message in (([], "ends too early"), (packed[:9], "ends too early"), ("x", "must be a list of bytes")):
        with pytest.raises(DatasetError, match=message):
            decode_brush(wrong, 1, 2, "here")
    with pytest.raises(DatasetError, match="has 8 values, expected 5 x 5 x 4"):
        decode_brush(packed, 5, 5, "here")


# Supervisely


def test_supervisely(tmp_path: Path) -> None:
    draw(tmp_path / "ds" / "img" / "a.png")
    data = base64.b64encode(zlib.compress(to_png(make_mask()[5:25, 10:30]))).decode()
    objects = [
        {"classTitle": "dog", "geometryType": "polygon", "points": {"exterior": RING, "interior": [HOLE]}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [10, 5]}},
        {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[32, 4], [39, 9]], "interior": []}},
        {"classTitle": "cat", "geometryType": "point", "points": {"exterior": [[1, 1]], "interior": []}},
    ]
    content = {"size": {"height": HEIGHT, "width": WIDTH}, "tags": [], "objects": objects}
    write(tmp_path / "ds" / "ann" / "a.png.json", content)
    write(tmp_path / "meta.json", {"classes": [{"title": "cat"}, {"title": "dog"}], "tags": []})
    assert describe(tmp_path) == describe(tmp_path / "meta.json")
    assert describe(tmp_path) == [
        ("ds/img/a.png", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
        ("ds/img/a.png", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
        ("ds/img/a.png", "cat", -1.0, BOX),
    ]
    assert get_losses(tmp_path) == ["1 shape of type 'point'"]


# VIA


def to_via(shape: dict[str, Any], attributes: dict[str, Any]) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


VIA_POLYGON = {"name": "polygon", "all_points_x": [x for x, _ in RING], "all_points_y": [y for _, y in RING]}
VIA_BOX = {"name": "rect", **dict(zip(("x", "y", "width", "height"), BOX, strict=True))}
VIA_WANTED = [("a.jpg", "dog", 400.0, [10.0, 5.0, 20.0, 20.0]), ("a.jpg", "cat", -1.0, BOX)]


def test_via(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    regions = [to_via(VIA_POLYGON, {"class": "dog", "wet": "no"}), to_via(VIA_BOX, {"class": {"cat": True}})]
    regions.append(to_via(VIA_POLYGON | {"name": "polyline"}, {"class": "dog"}))
    item = {"filename": "a.jpg", "size": 1, "regions": regions, "file_attributes": {}}
    file = write(tmp_path / "via.json", {"a.jpg1": item})
    assert describe(file) == VIA_WANTED
    assert get_losses(file) == ["1 shape of type 'polyline'"]
    first = item | {"regions": dict(enumerate(regions))}
    assert describe(write(tmp_path / "one.json", {"a.jpg1": first})) == VIA_WANTED
    assert (
        describe(write(tmp_path / "project.json", {"_via_settings": {}, "_via_img_metadata": {"a.jpg1": item}}))
        == VIA_WANTED
    )
    rows = [
        f'a.jpg,1,"{{}}",2,{number},"{json.dumps(r["shape_attributes"]).replace(chr(34), chr(34) * 2)}",'
        f'"{json.dumps(r["region_attributes"]).replace(chr(34), chr(34) * 2)}"'
        for number, r in enumerate(regions)
    ]
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    assert describe(write(tmp_path / "via.csv", "\n".join([head, *rows]))) == VIA_WANTED
    third = {
        "project": {},
        "config": {},
        "attribute": {"1": {"aname": "class", "options": {"0": "dog", "1": "cat"}}},
        "file": {"1": {"fid": "1", "fname": "a.jpg"}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "x": {"vid": "1", "xy": [7, *np.ravel(RING).tolist()], "av": {"1": "0"}},
            "y": {"vid": "1", "xy": [2, *BOX], "av": {"1": "1"}},
        },
    }
    assert describe(write(tmp_path / "three.json", third)) == VIA_WANTED


def test_via_asks_which_attribute_is_the_class(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    item = {"filename": "a.jpg", "regions": [to_via(VIA_BOX, {"size": "big", "wet": "no"})]}
    with pytest.raises(DatasetError, match=r"regions have the attributes 'size', 'wet'\. Which one is the class"):
        open_file(write(tmp_path / "via.json", {"a": item}))
    item["regions"] = [to_via(VIA_BOX, {})]
    assert describe(write(tmp_path / "via.json", {"a": item})) == [("a.jpg", "object", -1.0, BOX)]


# Folders of COCO files


def test_roboflow_and_coco_folders(tmp_path: Path, raw: dict[str, Any]) -> None:
    raw["categories"] = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        *({**category, "supercategory": "animals"} for category in raw["categories"]),
    ]
    for folder, split in (("train", "train"), ("valid", "val")):
        write(tmp_path / "rf" / folder / "_annotations.coco.json", raw)
        for image in raw["images"]:
            draw(tmp_path / "rf" / folder / image["file_name"])
            draw(tmp_path / "coco" / "images" / split / image["file_name"])
        write(tmp_path / "coco" / "annotations" / f"instances_{split}.json", raw)
    annotations = open_file(tmp_path / "rf")
    assert [category.name for category in annotations.categories] == ["three", "seven"]
    assert annotations.get_info(0).file == str(tmp_path / "rf/train/b.jpg")
    assert open_file(Path(f"{tmp_path / 'rf'}:valid")).get_info(0).file == str(tmp_path / "rf/valid/b.jpg")
    assert find_validation(tmp_path / "rf") == f"{tmp_path / 'rf'}:val"
    assert open_file(tmp_path / "rf" / "valid").num_images == 2
    annotations = open_file(tmp_path / "coco")
    assert (annotations.num_images, annotations.num_objects, annotations.num_classes) == (2, 3, 3)
    assert Path(annotations.get_info(0).file).is_file()
    raw["annotations"][0]["category_id"] = 0  # a class with an object is no placeholder
    write(tmp_path / "rf" / "train" / "_annotations.coco.json", raw)
    assert open_file(tmp_path / "rf").num_classes == 3


# Datumaro and Segments.ai


def test_datumaro(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "train" / "a.jpg")
    rle = rings.encode_mask(make_mask())
    annotations = [
        {"id": 1, "type": "polygon", "group": 1, "label_id": 1, "points": np.ravel(RING).tolist(), "attributes": {}},
        {"id": 2, "type": "polygon", "group": 1, "label_id": 1, "points": np.ravel(PART).tolist()},
        {"id": 3, "type": "bbox", "group": 0, "label_id": 0, "bbox": BOX, "attributes": {"occluded": False}},
        {"id": 4, "type": "mask", "group": 0, "label_id": 1, "rle": rle},
        {"id": 5, "type": "mask", "group": 0, "label_id": 1, "rle": rle, "attributes": {"is_crowd": True}},
        {"id": 6, "type": "caption", "label_id": 0, "caption": "x"},
    ]
    item = {"id": "a", "annotations": annotations, "image": {"path": "a.jpg", "size": [HEIGHT, WIDTH]}}
    labels = {"label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog", "parent": ""}]}}
    content = {"info": {}, "categories": labels, "items": [item]}
    file = write(tmp_path / "annotations" / "train.json", content)
    wanted = [
        ("a.jpg", "dog", 450.0, [10.0, 5.0, 40.0, 30.0]),
        ("a.jpg", "cat", -1.0, BOX),
        ("a.jpg", "dog", 375.0, [10.0, 5.0, 20.0, 20.0]),
    ]
    assert describe(tmp_path) == describe(file) == wanted
    assert get_losses(file) == ["1 annotation of type 'caption'"]
    annotations[3]["rle"] = {"size": [HEIGHT, WIDTH], "counts": [1, 2]}
    with pytest.raises(DatasetError, match=r"item 'a': the sum of counts must be 2,400 pixels, got 3"):
        open_file(write(file, content))


def test_segments(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[make_mask()] = [1, 1, 0, 255]  # 257
    Image.fromarray(pixels).save(tmp_path / "a_label_ground-truth.png")
    vectors = {"annotations": [
        {"id": 1, "category_id": 2, "type": "polygon", "points": RING},
        {"id": 2, "category_id": 1, "type": "bbox", "points": [[32, 4], [40, 10]]},
        {"id": 3, "category_id": 1, "type": "polyline", "points": [[32, 4], [40, 10]]},
    ]}  # fmt: skip
    bitmap = {"annotations": [{"id": 257, "category_id": 2}], "segmentation_bitmap": {"url": "https://x/y.png"}}

    def release(attributes: dict[str, Any]) -> dict[str, Any]:
        categories = {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
        sample = {"name": "a.jpg", "attributes": {}, "labels": {"ground-truth": {"attributes": attributes}}}
        return {"name": "v1", "dataset": {"task_attributes": categories, "samples": [sample]}}

    assert describe(write(tmp_path / "v.json", release(vectors))) == VIA_WANTED
    assert describe(write(tmp_path / "b.json", release(bitmap))) == [("a.jpg", "dog", 375.0, [10.0, 5.0, 20.0, 20.0])]
    (tmp_path / "a_label_ground-truth.png").unlink()
    with pytest.raises(DatasetError, match=r"has its masks in a_label_ground-truth\.png, which is not in"):
        open_file(tmp_path / "b.json")


def test_the_outlines_of_segments_coco_export(tmp_path: Path, raw: dict[str, Any]) -> None:
    for record in raw["annotations"]:
        record["points"] = RING
        del record["segmentation"], record["bbox"], record["area"]
    for image in raw["images"]:
        draw(tmp_path / image["file_name"])
    file = write(tmp_path / "coco.json", raw)
    assert [item[2] for item in describe(file)] == [400.0] * 3


# Folders of masks


def test_folders_of_masks(tmp_path: Path) -> None:
    image = draw(tmp_path / "one" / "images" / "a.jpg")
    values = np.where(make_mask(), 300, 0).astype(np.uint16)
    values[35] = 2
    (tmp_path / "one" / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "one" / "masks" / "a.png")
    square, line = (375.0, [10.0, 5.0, 20.0, 20.0]), (60.0, [0.0, 35.0, 60.0, 1.0])
    assert [item[1:] for item in describe(tmp_path / "one")] == [("object", *line), ("object", *square)]
    masks = tmp_path / "one" / "masks"
    (masks / "fish").mkdir()
    (masks / "a.png").rename(masks / "fish" / "a.png")
    assert [item[1] for item in describe(tmp_path / "one")] == ["fish", "fish"]
    (masks / "fish" / "a.png").unlink()
    (masks / "fish").rmdir()
    (masks / "a").mkdir()
    Image.fromarray(make_mask()).save(masks / "a" / "cat_1.png")
    Image.fromarray(make_mask()).save(masks / "a" / "cat-12.png")
    assert [item[1:] for item in describe(tmp_path / "one")] == [("cat", *square)] * 2
    bowl = tmp_path / "bowl" / "x"
    draw(bowl / "images" / "x.png")
    (bowl / "masks").mkdir()
    Image.fromarray(make_mask()).save(bowl / "masks" / "0.png")
    assert [item[1:] for item in describe(tmp_path / "bowl")] == [("object", *square)]
    Image.new("L", (9, 9), 1).save(masks / "a" / "cat_3.png")
    with pytest.raises(DatasetError, match=r"a mask of a\.jpg is 9 x 9 pixels, but the image is 60 x 40"):
        open_file(tmp_path / "one")
    assert image.is_file()


# All


def test_what_is_not_kept_is_a_note(yolo: Path) -> None:
    write(yolo.parent / "labels/train/a.txt", f"{to_line(0, RING)} 0.9\n")
    with pytest.warns(UserWarning, match="1 score at the end of a line: left out, because boxes and masks"):
        annotations = read_dataset(yolo)
    assert annotations.remarks[0] == "the labels are read as YOLO: converted"


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_text("hello")])
def test_a_path_without_labels_lists_the_formats(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "labels.xml"
    make(path)
    with pytest.raises(DatasetError, match=r"recognizes\. It reads COCO and LVIS \(\.json\), YOLO"):
        open_file(path)


def test_rings_come_back() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((12, 15)) > 0.4
        traced = rings.trace_rings(mask)
        parts, holes = rings.find_holes(rings.split_rings(rings.join_rings(traced)))
        assert (rings.decode_mask(rings.encode_rings(parts, holes, 12, 15)) == mask).all()
        assert sum(map(rings.compute_area, traced)) == mask.sum()


def test_rings_in_rings_and_thousands_of_specks_come_back() -> None:
    nested = np.zeros((50, 50), bool)
    for edge in range(5, 25, 4):  # a part, its hole, a part in the hole, ...
        nested[edge : 50 - edge, edge : 50 - edge] ^= True
    specks = np.zeros((128, 128), bool)
    specks[::2, ::2] = True  # more parts than Python has levels of recursion
    for mask in (nested, specks):
        parts, holes = rings.find_holes(rings.split_rings(rings.join_rings(rings.trace_rings(mask))))
        assert (rings.decode_mask(rings.encode_rings(parts, holes, *mask.shape)) == mask).all()
