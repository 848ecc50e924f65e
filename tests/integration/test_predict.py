"""predict.py: pictures in, rows and drawn pictures out."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import forks
import numpy as np
import pytest
from PIL import Image
from sample_pictures import astronaut, crowd, everywhere, readable_runtime
from small_network import random_model, write_workdir

from hydranet_tf.exporting import litert, saved_model
from hydranet_tf.inference import table
from hydranet_tf.inference.predictor import Face, Predictor
from hydranet_tf.photos import annotation, predict, rows
from hydranet_tf.photos.collecting import PathsError, collect
from hydranet_tf.photos.rows import COLUMNS

REPOSITORY = Path(__file__).resolve().parents[2]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def as_they_are():
    return Predictor(readable_runtime(), detector=None)


@pytest.fixture
def folder(tmp_path):
    """Four pictures of four kinds in two folders, and a file that is none."""
    album = tmp_path / "album"
    (album / "inner").mkdir(parents=True)
    astronaut().crop((60, 0, 400, 340)).save(album / "a.png")
    (album / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (60, 60), (0, 0, 200)).save(album / "inner" / "sky.JPG", "JPEG")
    crowd().save(album / "inner" / "thirty.jpeg", quality=95)
    (album / "notes.txt").write_text("no picture")
    return album


def test_what_has_rows_already_is_not_drawn_and_named(folder, tmp_path, caplog):
    first = [str(folder / "a.png"), str(folder / "inner")]
    output, drawn = tmp_path / "faces.csv", tmp_path / "drawn"
    predict.predict(first, as_they_are(), output)
    assert not caplog.messages
    predict.predict(first, as_they_are(), output, annotate=drawn)
    # The last may lack faces, so it is predicted anew, and drawn.
    assert [path.name for path in drawn.rglob("*.*")] == ["thirty.jpeg"]
    (message,) = caplog.messages
    assert message.startswith("2 pictures have their rows already and are not drawn")
    assert "a.png" in message


def test_a_picture_that_can_be_read_once(folder, tmp_path, caplog):
    """As a pipe is: its predictions are kept, and that it is not drawn is said."""
    once = folder / "a.png"

    class Takes(Predictor):
        def find(self, picture):
            found = super().find(picture)
            once.unlink()
            return found

    output, drawn = tmp_path / "faces.csv", tmp_path / "drawn"
    model = Takes(readable_runtime(), detector=None)
    summary = predict.predict([str(once)], model, output, annotate=drawn)
    assert summary.statuses == {"ok": 1} and len(read(output)) == 1
    assert not drawn.exists()
    (message,) = caplog.messages
    assert message.endswith(
        "a.png is not drawn: cannot be opened: No such file or directory"
    )


def test_a_row_a_face(folder, tmp_path):
    summary = predict.predict(
        [str(folder)], Predictor(readable_runtime()), tmp_path / "faces.csv"
    )
    rows = read(tmp_path / "faces.csv")
    assert [len([r for r in rows if r["file"].endswith(n)]) for n in (
        "a.png", "bad.jpg", "sky.JPG", "thirty.jpeg")] == [1, 1, 1, 30]  # fmt: skip
    by_name = {Path(r["file"]).name: r for r in rows}
    face, bad, sky = (by_name[n] for n in ("a.png", "bad.jpg", "sky.JPG"))
    assert face["status"] == "ok" and face["face"] == "0"
    assert int(face["left"]) < int(face["right"]) < 340
    assert 0.88 < float(face["detection_score"]) <= 1
    assert "." in face["age"] and face["age_low"] == face["age_high"] == ""
    fractions = {n: float(face[f"p_gender_{n}"]) for n in ("male", "female")}
    assert face["gender"] == max(fractions, key=fractions.get)
    races = ("white", "black", "asian", "indian", "others")
    fractions = {n: float(face[f"p_race_{n}"]) for n in races}
    assert face["race"] == max(fractions, key=fractions.get)
    assert sum(fractions.values()) == pytest.approx(1, abs=1e-4)
    assert bad["status"].startswith("unreadable: expected a picture (JPEG, PNG")
    assert sky["status"] == "no_face"
    for row in (bad, sky):
        assert {row[name] for name in COLUMNS[1:-1]} == {""}
    faces = [int(r["face"]) for r in rows if r["file"].endswith("thirty.jpeg")]
    assert faces == list(range(30))
    assert summary.statuses == {"ok": 2, "unreadable": 1, "no_face": 1}
    assert (summary.faces, summary.exit_code) == (31, 1)
    assert "pictures: 4, faces: 31" in str(summary)
    assert "without a face: 1, unreadable: 1" in str(summary)


def test_a_folder_without_a_face(tmp_path):
    for i in range(3):
        Image.new("RGB", (50, 50), (i, 0, 0)).save(tmp_path / f"{i}.png")
    output = tmp_path / "faces.csv"
    found = predict.predict([str(tmp_path)], Predictor(readable_runtime()), output)
    assert [row["status"] for row in read(output)] == ["no_face"] * 3
    assert (found.faces, found.exit_code) == (0, 0)


def test_json_lines_say_the_same(folder, tmp_path):
    for name in ("faces.csv", "faces.jsonl"):
        predict.predict([str(folder)], as_they_are(), tmp_path / name)
    lines = (tmp_path / "faces.jsonl").read_text().splitlines()
    for line, row in zip(lines, read(tmp_path / "faces.csv"), strict=True):
        values = json.loads(line)
        assert tuple(values) == COLUMNS
        assert {k: "" if v is None else str(v) for k, v in values.items()} == row


def test_no_detect_leaves_the_place_blank(folder, tmp_path):
    output = tmp_path / "faces.csv"
    predict.predict([str(folder / "a.png")], as_they_are(), output)
    (row,) = read(output)
    assert [row[n] for n in ("left", "right", "detection_score")] == ["", "", ""]
    assert row["face"] == "0" and row["age"] and row["status"] == "ok"


def test_a_detector_that_fails_costs_one_row(folder, tmp_path):
    def fails(image):
        if image.shape[0] == 60:
            raise RuntimeError("two\nlines")
        return everywhere(image)

    output = tmp_path / "faces.csv"
    predictor = Predictor(readable_runtime(), fails)
    found = predict.predict([str(folder)], predictor, output)
    statuses = [row["status"] for row in read(output)]
    assert statuses[:2] == ["ok", "ok"] and statuses[-2:] == ["ok", "ok"]
    assert statuses[3].startswith("failed: ") and statuses[3].endswith("two lines")
    assert found.exit_code == found.unreadable == 2


class Counting(Predictor):
    def __init__(self, stop_after=None):
        super().__init__(readable_runtime(), everywhere)
        self.found, self.predicted, self.stop_after = [], [], stop_after

    def find(self, picture):
        self.found.append(Path(picture).name)
        return super().find(picture)

    def predict(self, found):
        if len(self.predicted) == self.stop_after:
            raise KeyboardInterrupt
        self.predicted.append(len(found))
        return super().predict(found)


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    for i in range(10):
        Image.new("RGB", (20, 20), (20 * i, 9, 9)).save(tmp_path / f"{i}.png")
    output, whole = tmp_path / "faces.csv", tmp_path / "whole.csv"
    arguments = ([str(tmp_path)],)
    predict.predict(*arguments, Counting(), whole, batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        predict.predict(*arguments, Counting(2), output, batch_size=3)
    assert len(read(output)) == 2 * 6
    # As a power cut leaves it: the second face of the sixth picture half there.
    output.write_bytes(output.read_bytes()[:-20])
    again = Counting()
    found = predict.predict(*arguments, again, output, batch_size=3)
    assert sorted(again.found) == ["5.png", "6.png", "7.png", "8.png", "9.png"]
    assert again.predicted == [3, 2]
    assert output.read_bytes() == whole.read_bytes()
    assert found.faces == 20 and found.statuses == {"ok": 10}


def test_what_is_done_needs_no_model(folder, tmp_path):
    output = tmp_path / "faces.csv"
    files = [str(folder / "a.png"), str(folder / "inner")]
    blind = Predictor(readable_runtime(), lambda image: [])
    predict.predict(files, blind, output)
    before = output.read_bytes()
    found = predict.predict(files, tmp_path / "no model", output)
    assert output.read_bytes() == before
    assert found.statuses == {"no_face": 3}


def test_a_repaired_picture_is_predicted_by_the_next_run(folder, tmp_path):
    output = tmp_path / "faces.csv"
    whole = (folder / "inner" / "thirty.jpeg").read_bytes()
    cut = folder / "cut.jpg"
    cut.write_bytes(whole[: len(whole) // 2])
    paths = [str(folder / "bad.jpg"), str(cut), str(folder / "a.png")]
    first = predict.predict(paths, as_they_are(), output)
    assert first.statuses == {"unreadable": 1, "ok": 2} and first.partial == 1
    assert "unreadable: 1, read in part: 1; rows in" in str(first)
    assert read(output)[1]["status"] == "ok: truncated: Premature end of JPEG file"
    for path in paths[:2]:
        Path(path).write_bytes(whole)
    again = predict.predict(paths, as_they_are(), output)
    assert again.statuses == {"ok": 3} and (again.partial, again.exit_code) == (0, 0)
    rows = read(output)
    assert sorted(row["file"] for row in rows) == sorted(paths)
    assert {row["status"] for row in rows} == {"ok"}


def test_formats_by_content_in_one_folder(tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    face = astronaut().crop((60, 0, 400, 340))
    for kind in ("webp", "avif", "bmp", "tif", "gif", "jfif"):
        face.save(album / f"a.{kind}", "JPEG" if kind == "jfif" else None)
    face.save(album / "without an ending", "PNG")
    (album / "clip.mov").write_bytes(b"\0\0\0\x14ftypqt  \0\0\2\0qt  ")
    (album / "b.txt").write_text("no picture")
    (album / "a.txt").write_text("no picture")
    (album / "._a.jpg").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (album / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    found = predict.predict([str(album)], as_they_are(), tmp_path / "f.csv")
    assert found.statuses == {"ok": 7} and found.exit_code == 0
    note, line = str(found).splitlines()
    assert note == (
        f"left out, as no pictures: 2 .txt ({album}/a.txt, {album}/b.txt), "
        f"1 video ({album}/clip.mov)"
    )
    assert line.startswith("pictures: 7, faces: 7")
    ages = {float(row["age"]) for row in read(tmp_path / "f.csv")}
    assert max(ages) - min(ages) < 1, "one face in seven formats"


def test_crops_are_saved_as_the_network_saw_them(folder, tmp_path):
    crops = tmp_path / "crops"
    predictor = Predictor(readable_runtime(), everywhere)
    predict.predict(
        [str(folder)], predictor, tmp_path / "f.csv", save_crops=crops, batch_size=2
    )
    names = sorted(str(p.relative_to(crops)) for p in crops.rglob("*.png"))
    assert names == [
        f"{name}_{n}.png"
        for name in ("a.png", "inner/sky.JPG", "inner/thirty.jpeg") for n in (0, 1)
    ]  # fmt: skip
    expected = predictor.find(folder / "a.png").crops[1]
    found = np.asarray(Image.open(crops / "a.png_1.png"))
    np.testing.assert_array_equal(found, expected)


def test_pictures_are_let_go_of(tmp_path, monkeypatch):
    """Bounded by the batch, whatever the number of pictures: counted."""
    image = Image.new("RGB", (16, 16), (9, 9, 9))
    for i in range(60):
        image.save(tmp_path / f"{i:02}.png")
    alive, most = weakref.WeakSet(), []

    class Tracked(Predictor):
        def find(self, picture):
            found = super().find(picture)
            alive.add(found)
            most.append(len(alive))
            return found

    # Hashable by identity, which a frozen dataclass with an array is not.
    monkeypatch.setattr(
        "hydranet_tf.inference.predictor.Found.__hash__", object.__hash__
    )
    predict.predict(
        [str(tmp_path)], Tracked(readable_runtime(), None), tmp_path / "f.csv",
        batch_size=5,
    )  # fmt: skip
    assert len(most) == 60
    # The batch at hand, and the one before until its name is given away.
    assert max(most) <= 10


def test_drawn_pictures(folder, tmp_path):
    drawn = folder / "drawn"
    arguments = ([str(folder)], Predictor(readable_runtime()), tmp_path / "faces.csv")
    predict.predict(*arguments, annotate=drawn)
    found = sorted(str(p.relative_to(drawn)) for p in drawn.rglob("*") if p.is_file())
    assert found == ["a.png", "inner/sky.JPG", "inner/thirty.jpeg"]
    row = next(r for r in read(tmp_path / "faces.csv") if r["file"].endswith("a.png"))
    left, top = int(row["left"]), int(row["top"])
    picture = np.asarray(Image.open(drawn / "a.png"))
    original = np.asarray(Image.open(folder / "a.png"))
    assert picture.shape == original.shape
    assert tuple(picture[top + 20, left]) == (0xE6, 0x9F, 0x00)
    np.testing.assert_array_equal(picture[:, : left - 60], original[:, : left - 60])
    # A second run does not take them for photographs.
    predict.predict(arguments[0], arguments[1], tmp_path / "again.csv", annotate=drawn)
    assert (tmp_path / "again.csv").read_bytes() == (
        tmp_path / "faces.csv"
    ).read_bytes()


def test_drawn_pictures_go_nowhere_over_the_originals(folder, tmp_path):
    with pytest.raises(PathsError, match="might be written over"):
        predict.predict(
            [str(folder / "a.png")], as_they_are(), tmp_path / "f.csv", annotate=folder
        )


def test_the_words_in_a_drawn_picture():
    face = Face(
        (0, 0, 9, 9), 0.9, {"age": 34.21, "gender": "female", "race": "asian"},
        {"gender": {"male": 0.07, "female": 0.93}, "race": {"asian": 0.5}},
    )  # fmt: skip
    predictions = ["34.2 years", "female 93 %", "asian 50 %"]
    assert annotation.lines(face) == [*predictions, "score 0.90"]
    unsaid = dataclasses.replace(face, detection_score=None)
    assert annotation.lines(unsaid) == predictions
    assert annotation.lines(Face(None, None)) == []


@pytest.mark.parametrize("size", [(9, 9), (300, 20), (20, 300)])
@pytest.mark.parametrize("box", [None, (-5, -5, 400, 400), (2, 2, 6, 6)])
def test_drawing_into_any_picture(tmp_path, size, box):
    image = np.full((*size, 3), 250, np.uint8)
    face = Face(box, None, {"age": 1.0})
    annotation.write(image, [face], tmp_path / "in" / "a.PNG")
    drawn = np.asarray(Image.open(tmp_path / "in" / "a.PNG"))
    # It grows where the text has no room beside the face.
    assert drawn.shape[1] == size[1] and drawn.shape[0] >= size[0]
    if box is None:
        np.testing.assert_array_equal(drawn[: size[0]], image)
        assert (drawn[size[0] :] > 200).any(), "the text"


def words(box):
    return Face(
        box, 0.9, {"age": 34.21, "gender": "female", "race": "asian"},
        {"gender": {"male": 0.07, "female": 0.93}, "race": {"asian": 0.5}},
    )  # fmt: skip


def covers(one, other):
    return not (
        one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    )


@pytest.mark.parametrize("seed", range(6))
def test_labels_cover_no_face_and_no_other(seed):
    """Boxes anywhere, crowded and beyond the picture."""
    rng = np.random.default_rng(seed)
    size = (640, 480)
    boxes = []
    for _ in range(int(rng.integers(1, 25))):
        x, y = rng.integers(-20, 600), rng.integers(-20, 440)
        side = int(rng.integers(20, 220))
        boxes.append((int(x), int(y), int(x) + side, int(y) + side))
    labels = annotation.place([words(box) for box in boxes], size)
    placed = [label.box for label in labels if label]
    for n, one in enumerate(placed):
        assert 0 <= one[0] and one[2] < 640 and 0 <= one[1] and one[3] < 480
        assert not any(covers(one, box) for box in boxes)
        assert not any(covers(one, other) for other in placed[:n])


def test_a_face_with_room_around_it_has_its_label_below():
    (label,) = annotation.place([words((300, 100, 400, 220))], (800, 600))
    assert label.box[:2] == (300, 221)
    assert label.text.splitlines()[:3] == ["34.2 years", "female 93 %", "asian 50 %"]
    (label,) = annotation.place([words((300, 300, 400, 590))], (800, 600))
    assert label.box[3] == 299, "above it where there is no room below"
    (label,) = annotation.place([words((100, 0, 400, 590))], (800, 600))
    assert label.box[0] == 401, "then at its right"


def test_faces_without_room_are_numbered_and_told_below(tmp_path):
    """A face stays as it is but for its outline, and the corner of a number."""
    image = np.asarray(crowd(4, 3))
    boxes = [
        (120 * x + 5, 120 * y + 5, 120 * x + 114, 120 * y + 114)
        for y in range(3) for x in range(4)
    ]  # fmt: skip
    annotation.write(image, [words(box) for box in boxes], tmp_path / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert drawn.shape[0] > image.shape[0] and drawn.shape[1] == image.shape[1]
    for left, top, right, bottom in boxes:
        inside = slice(top + 22, bottom - 2), slice(left + 22, right - 2)
        np.testing.assert_array_equal(drawn[inside], image[inside])


def files(paths):
    return collect(paths).files


def test_files_folders_and_patterns_each_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    everything = ["a.png", "bad.jpg", "inner/sky.JPG", "inner/thirty.jpeg"]
    assert files(["."]) == everything
    assert files(["**/*.jp*g", "./a.png"]) == [
        "bad.jpg",
        "inner/thirty.jpeg",
        "a.png",
    ]
    assert files(["a.png", ".", str(folder / "a.png")])[:2] == everything[:2]
    assert files(["notes.txt"]) == ["notes.txt"]
    assert files(["in*"]) == everything[2:]
    os.rename("a.png", "a[1].png")
    assert files(["a[1].png"]) == ["a[1].png"]


@pytest.mark.parametrize("path", ["nowhere.jpg", "*.webp", "empty"])
def test_a_path_without_pictures_is_told(folder, path, monkeypatch):
    monkeypatch.chdir(folder)
    os.mkdir("empty")
    with pytest.raises(PathsError, match="no picture at"):
        files(["a.png", path])
    with pytest.raises(PathsError, match="no path"):
        files([])


def test_the_exit_code_ends_at_100(tmp_path):
    summary = predict.Summary({"unreadable": 990, "failed": 10}, 0, tmp_path)
    assert (summary.unreadable, summary.exit_code) == (1000, 100)


def test_links_are_followed_once_and_closed_folders_named(tmp_path, monkeypatch):
    top, other = tmp_path / "top", tmp_path / "other"
    for path in (top / "inner", other / "deep", top / "closed"):
        path.mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(path / "a.png")
    (top / "to_other").symlink_to("../other")
    (top / "again").symlink_to(other)
    (top / "inner" / "to_itself").symlink_to(top)
    (other / "to_top").symlink_to(top)
    (top / "gone").symlink_to("nowhere")
    scandir = os.scandir

    def closes(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", closes)
    found = collect([str(top)])
    names = [os.path.relpath(file, top) for file in found.files]
    assert names == ["again/deep/a.png", "inner/a.png"]
    assert found.closed == [str(top / "closed")]
    assert list(found.left_out) == ["unreadable: No such file or directory"]
    summary = predict.predict([str(top)], as_they_are(), tmp_path / "f.csv")
    assert summary.exit_code == 1
    assert f"cannot look into 1 folder: {top}/closed" in str(summary)


def test_a_pipe_among_pictures_keeps_nobody_waiting(folder):
    """Whatever its name; one that is named itself is read."""
    os.mkfifo(folder / "pipe.jpg")
    found = collect([str(folder)])
    assert len(found.files) == 4
    assert found.left_out["no regular file"] == [str(folder / "pipe.jpg")]
    assert collect([str(folder / "pipe.jpg")]).files == [str(folder / "pipe.jpg")]


@pytest.mark.parametrize("name", ["", "a.png", "inner"])
def test_what_is_named_and_would_be_written_over(folder, name):
    with pytest.raises(PathsError, match="writes pictures to .*name another folder"):
        collect([str(folder / name)], [folder])
    # A folder below is passed over, as what was drawn the last time.
    assert len(collect([str(folder)], [folder / "inner"]).files) == 2


@pytest.mark.parametrize("name", ["hol [2019]", "a*b", "what?"])
def test_patterns_within_folders_named_like_patterns(tmp_path, name, monkeypatch):
    album = tmp_path / name
    album.mkdir()
    for file in ("1.jpg", "2.jpg", "3.png"):
        Image.new("RGB", (20, 20)).save(album / file)
    (tmp_path / "hol 2").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "hol 2" / "no.jpg")
    expected = [f"{name}/1.jpg", f"{name}/2.jpg"]
    monkeypatch.chdir(tmp_path)
    assert files([f"{name}/*.jpg"]) == expected
    assert files([f"{tmp_path}/{name}/?.jpg"]) == [f"{tmp_path}/{e}" for e in expected]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://example.org/a.jpg", "URLs are not fetched.* curl -fO"),
        ("file:///tmp/a.jpg", "not a URL: /tmp/a.jpg"),
        ("data:image/png;base64,iVBORw0KGgo=", "base64 -d | predict.py -"),
    ],
)
def test_paths_that_are_none_are_refused_with_the_way_out(path, reason):
    with pytest.raises(PathsError, match=reason):
        collect([path])


def run(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, REPOSITORY / "predict.py", *map(str, arguments)],
        cwd=cwd, capture_output=True, **{"text": True} | options,
    )  # fmt: skip


def test_all_three_kinds_of_model(folder, tmp_path):
    model = random_model()
    write_workdir(model, tmp_path / "run")
    network = model.inference_model()
    description = saved_model.describe(model.tasks, model.image_size)
    saved_model.write(network, description, tmp_path / "served" / "1")
    litert.write(network, description, tmp_path / "phone.tflite")
    found = []
    for name in ("run", "served", "phone.tflite"):
        table, drawn = tmp_path / f"{name}.csv", tmp_path / "drawn" / name
        if name == "phone.tflite":
            # By the script: this one starts without TensorFlow.
            done = run(
                f"--model={name}", f"--output={name}.csv", f"--annotate={drawn}",
                folder, cwd=tmp_path,
            )  # fmt: skip
            assert done.returncode == 1, done.stderr
            assert done.stdout.splitlines()[-1] == (
                "pictures: 4, faces: 31, pictures without a face: 1, unreadable: 1; "
                f"rows in {name}.csv"
            )
        else:
            predict.predict([str(folder)], tmp_path / name, table, annotate=drawn)
        assert (tmp_path / "drawn" / name / "a.png").is_file()
        found.append(read(tmp_path / f"{name}.csv"))
    for workdir, *others in zip(*found, strict=True):
        for other in others:
            assert other["file"] == workdir["file"]
            assert other["status"] == workdir["status"]
            if workdir["age"]:
                ages = float(workdir["age"]), float(other["age"])
                assert ages[0] == pytest.approx(ages[1], abs=0.011)
    assert len({row["age"] for row in found[0]}) > 2


def test_the_script_takes_faces_as_they_are_and_says_what_is_wrong(folder, tmp_path):
    write_workdir(random_model(), tmp_path / "run")
    script = REPOSITORY / "predict.py"
    done = forks.run(
        [script, "--model=run", "--output=faces.jsonl", "--no_detect", "album/a.png"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "faces: 1" in done.stdout
    done = forks.run([script, "--model=nowhere", "--output=f.csv", "album"], tmp_path)
    assert done.returncode == 120
    assert done.stderr.splitlines()[-1].startswith("predict.py: expected a workdir")
    assert "Traceback" not in done.stderr
    done = forks.run([script, "--model=run", "--output=f.csv", "nowhere"], tmp_path)
    assert done.returncode == 120 and "no picture at nowhere" in done.stderr


def test_lines_for_a_reader():
    values = {
        "age": 31.4, "age_low": 23.6, "age_high": 39.2, "gender": "female",
        "race": "white", "p_gender_female": 0.966, "p_race_white": 0.881,
        "left": 12, "top": 40, "right": 90, "bottom": 118, "detection_score": 0.936,
    }  # fmt: skip
    stream = io.StringIO()
    with rows.Lines(stream) as written:
        whole = table.row("a b.jpg", "ok", face=0, **values)
        unscored = {**whole, "detection_score": None}
        written.add([whole, unscored, {**whole, "left": None, "age_low": None}])
        written.add([table.row("sky.png", "no_face")])
        written.add([table.row("\x1b[2J\udcff.png", "unreadable: no JPEG")])
    assert stream.getvalue().splitlines() == [
        "a b.jpg: 31 years (24 to 39), female 97 %, white 88 %; at 12, 40 to 90, 118, "
        "score 0.94",
        "a b.jpg: 31 years (24 to 39), female 97 %, white 88 %; at 12, 40 to 90, 118",
        "a b.jpg: 31 years, female 97 %, white 88 %",
        "sky.png: no face found",
        r"\x1b[2J\xff.png: unreadable: no JPEG",
        "These are estimates of what annotators saw in pictures, not facts.",
    ]
    assert written.outcomes.statuses == {"ok": 1, "no_face": 1, "unreadable": 1}
    assert written.outcomes.faces == 3


def test_printed_lines_say_what_the_rows_say(folder, tmp_path, capsys):
    printed = predict.predict([str(folder)], as_they_are())
    *lines, meaning = capsys.readouterr().out.splitlines()
    assert "what annotators saw" in meaning
    written = predict.predict([str(folder)], as_they_are(), tmp_path / "f.csv")
    rows = read(tmp_path / "f.csv")
    assert [line.split(": ")[0] for line in lines] == [row["file"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        if row["status"] == "ok":
            assert f": {round(float(row['age']))} years, {row['gender']} " in line
    assert (printed.statuses, printed.output) == (written.statuses, None)
    assert str(printed) == str(written).partition(";")[0]


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    model = random_model()
    path = tmp_path_factory.mktemp("export") / "phone.tflite"
    description = saved_model.describe(model.tasks, model.image_size)
    litert.write(model.inference_model(), description, path)
    return path


def test_standard_input_and_a_terminal_that_knows_few_characters(phone, tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (30, 30)).save(stream, "PNG")
    Image.new("RGB", (30, 30)).save(tmp_path / "길동.png")
    done = run(
        f"--model={phone}", "--no_detect", "-", "길동.png", cwd=tmp_path, text=False,
        input=stream.getvalue(), env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("latin-1").splitlines()
    assert lines[0].startswith("-: ") and " years" in lines[0]
    assert lines[1].startswith(r"\uae38\ub3d9.png: ")
    assert lines[-1].startswith("pictures: 2, faces: 2")


def test_exit_codes_of_every_way_out(phone, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    done = run("--bogus", "bad.jpg", cwd=tmp_path)
    assert done.returncode == 120 and "bogus" in done.stderr
    done = run(
        f"--model={phone}", "--output=/proc/nowhere/f.csv", "bad.jpg", cwd=tmp_path
    )
    assert done.returncode == 120 and "cannot write" in done.stderr
    assert run(f"--model={phone}", "bad.jpg", cwd=tmp_path).returncode == 1
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, REPOSITORY / "predict.py", f"--model={phone}", "bad.jpg"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 120 and "Traceback" not in done.stderr
    assert "cannot write to standard output: No space left" in done.stderr
    closed = f'exec "$0" "$@" >&- --model={phone} bad.jpg'
    command = ["bash", "-c", closed, sys.executable, str(REPOSITORY / "predict.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 120
    assert done.stderr == "predict.py: standard output is closed: name an --output\n"
    command[2] += " --output=f.csv"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert read(tmp_path / "f.csv")[0]["status"].startswith("unreadable")
    # What nobody thought of is not a number of pictures either.
    script = (
        "import sys; from hydranet_tf.photos import predict\n"
        "def fails(*_, **__): raise {}('of the test')\n"
        "predict.predict = fails\n"
        "from hydranet_tf.commands import running\n"
        "sys.argv = ['predict.py', 'bad.jpg']; running.script('predict')"
    )
    for error, code, words in (
        ("ZeroDivisionError", 120, "ZeroDivisionError: of the test"),
        ("KeyboardInterrupt", 130, "the same command goes on"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script.format(error)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert words in done.stderr
