"""`tailseg thresholds`: of a run and of results; `predict`, `serve` and `report` then use them or mention them."""

import json
import shutil

import pytest

from tailseg.cli import main
from tailseg.detection import recalibration
from tailseg.detection.recalibration import Calibration, Setting
from tailseg.evaluation import thresholds
from tailseg.inference import Predictor
from tailseg.report.page import write_report
from tailseg.report.run import read_run


@pytest.fixture(scope="module")
def with_thresholds(run, tmp_path_factory):
    """A copy of the small run with thresholds of its boxes: its masks find nothing yet."""
    own = shutil.copytree(run, tmp_path_factory.mktemp("thresholds") / "run")
    assert main(["thresholds", str(own), "--only=bbox", "--samples=10"]) == 0
    return own


@pytest.fixture
def own(with_thresholds, tmp_path):
    return shutil.copytree(with_thresholds, tmp_path / "run")


def predict(own, photos, *options):
    """The scores of each category that are written."""
    assert main(["predict", str(own), str(photos), "--no-pictures", f"--out={own / 'out'}", *options]) == 0
    return [(r["category_id"], r["score"]) for r in json.loads((own / "out/results.json").read_text())]


def test_the_thresholds_of_a_run_are_those_of_its_results(own, photos, capsys):
    """`test` has detected on the same images: the results file gives the same thresholds."""
    results = shutil.copy(own / "results.json", own / "boxes.json")
    train = photos.parent / "train.json"
    arguments = ["thresholds", str(photos.parent / "val.json"), str(results), f"--train={train}", "--only=bbox"]

    assert main([*arguments, "--samples=10"]) == 0

    printed = capsys.readouterr().out
    assert "F1 of boxes at IoU 0.5" in printed
    assert "macro, rare" in printed
    stored, of_results = thresholds.load(own / "thresholds.json"), thresholds.load(own / "boxes.thresholds.json")
    assert stored.classes == of_results.classes
    assert stored.source == {"calibration": "as trained", "step": Predictor.from_run(own).checkpoint.progress.step}
    assert of_results.source is None


def set_thresholds(own, values):
    """Gives the run other thresholds: a value for each category id, 1 for all others."""
    content = json.loads((own / "thresholds.json").read_text())
    for entry in content["classes"]:
        entry["threshold"] = values.get(entry["category_id"], 1.0)
    (own / "thresholds.json").write_text(json.dumps(content))


def test_predict_uses_them_unless_told_not_to(own, photos, capsys):
    everything = predict(own, photos, "--score-threshold=0")
    assert "Score thresholds by class" not in capsys.readouterr().out
    by_category = {key: sorted(score for other, score in everything if other == key) for key, _ in everything}
    (first, one), (second, two) = sorted(by_category.items(), key=lambda item: -len(item[1]))[:2]
    set_thresholds(own, {first: one[len(one) // 2], second: two[-1]})

    expected = [
        (key, score) for key, score in everything if score >= {first: one[len(one) // 2], second: two[-1]}.get(key, 1)
    ]
    assert predict(own, photos) == expected
    assert "Score thresholds by class: " in capsys.readouterr().out
    assert {key for key, _ in expected} == {first, second}
    assert predict(own, photos, "--no-class-thresholds") == [pair for pair in everything if pair[1] >= 0.3]
    highest = max(score for _, score in everything)
    assert predict(own, photos, f"--score-threshold={highest}") == [pair for pair in everything if pair[1] >= highest]
    assert "Score thresholds by class" not in capsys.readouterr().out


def test_predict_that_finds_nothing_names_the_score_the_class_and_the_option(own, photos, capsys):
    predictor = Predictor.from_run(own)
    best = max((float(found.scores[0]), int(found.labels[0])) for _, found in predictor.predict(photos.iterdir()))
    set_thresholds(own, {predictor.categories[best[1]].id: 0.987})

    assert predict(own, photos) == []

    printed = capsys.readouterr().out
    name = predictor.names[best[1]]
    assert (
        f"the highest score is {best[0]:.2g}, of the class {name}, whose threshold in thresholds.json is 0.99"
        in printed
    )
    assert f"--score-threshold {float(f'{best[0] / 2:.1g}'):g}`" in printed

    assert predict(own, photos, "--score-threshold=1") == []
    assert f"the highest score is {best[0]:.2g}, and --score-threshold is 1." in capsys.readouterr().out


def test_thresholds_of_other_scores_are_not_used_and_the_reason_is_said(own, photos, capsys):
    recalibration.save(Calibration(Setting("NorCal", 0.8)), own / "calibration.json")

    predict(own, photos)

    printed = capsys.readouterr().out
    assert "thresholds.json is not used: its thresholds were found for as trained at step" in printed
    assert "and these scores are NorCal 0.8 at step" in printed
    assert f"Run `tailseg thresholds {own}` again" in printed
    assert "Score thresholds by class" not in printed
    assert Predictor.from_run(own).thresholds is None
    assert Predictor.from_run(own, calibrated=False).thresholds is not None


def test_thresholds_of_other_classes_are_refused(own, photos, capsys):
    content = json.loads((own / "thresholds.json").read_text())
    del content["classes"][0]
    (own / "thresholds.json").write_text(json.dumps(content))

    assert main(["predict", str(own), str(photos), "--no-pictures"]) == 1
    assert "has thresholds of other classes than the model" in capsys.readouterr().err
    assert main(["thresholds", str(own), "--only=bbox", "--samples=2"]) == 0, "they can be found again"


def test_serve_uses_them_until_a_threshold_is_entered(own, photos, monkeypatch):
    """Also: the page's field is empty, and an empty field means the thresholds of the classes."""
    from tailseg.report import server

    services = []
    monkeypatch.setattr(server, "make_server", lambda service, **_: services.append(service) or exit())
    for option in ("--class-thresholds", "--no-class-thresholds"):
        main(["serve", str(own), option])
    by_class, plain = (service.threshold for service in services)
    assert by_class == Predictor.from_run(own).thresholds
    assert plain == 0.3
    assert server._read_threshold("threshold=", by_class) == by_class
    assert server._read_threshold("", by_class) == by_class
    assert server._read_threshold("threshold=0.25", by_class) == 0.25
    assert b'value="" placeholder="by class"' in server.build_try_page(None, "shown", report=True)
    assert b'value="0.3"' in server.build_try_page(0.3, "shown", report=True)
    predictor = services[0].predictor
    image = server.read_upload(min(photos.iterdir()).read_bytes(), predictor.orientation)
    detections, nothing = predictor.detect(image), [1.0] * len(by_class)
    assert server.make_answer(services[0], image, detections, nothing, picture=False)["detections"] == []


def test_the_report_mentions_them(own, tmp_path):
    write_report([read_run(own)], tmp_path / "report.html")

    assert "thresholds.json has score thresholds from" in (tmp_path / "report.html").read_text()


def test_wrong_usage_is_explained(own, photos, capsys):
    truth, results = str(photos.parent / "val.json"), str(own / "results.json")
    cases = {
        "name the annotation file first, then the results": (results, truth),
        "tailseg thresholds ANNOTATIONS RESULTS": (truth,),
        "name one run, or an annotation file": (str(own), results),
        "--train is for results files": (str(own), f"--train={truth}"),
        "--images is for a run": (truth, results, "--images=5"),
        "name the training set's annotation file": (truth, results, "--groups", "5", "30"),
        "--folds is 2 or more": (str(own), "--folds=1"),
        "name a run, or": (),
    }
    for message, arguments in cases.items():
        assert main(["thresholds", *arguments]) == 2, message
        assert message in capsys.readouterr().err
    assert main(["thresholds", "missing.json", results]) == 1
    assert "no such file: missing.json" in capsys.readouterr().err
