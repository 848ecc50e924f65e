"""Films and cameras: faces that are followed, and their rows."""

from __future__ import annotations

import csv
import gc
import json
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
from sample_pictures import astronaut, background, readable_runtime

from hydranet_tf import errors
from hydranet_tf.data.detection import Detection, DetectionError, FaceFinder
from hydranet_tf.inference.predictor import Predictor
from hydranet_tf.photos import frames, tracks, video
from hydranet_tf.photos.collecting import PathsError
from hydranet_tf.photos.rows import RowsError
from hydranet_tf.photos.tracks import Seen, SeenFrame

WIDTH, HEIGHT, RATE = 320, 240, 10
FACE = 60


def write(path, pictures, codec="mp4v", size=(WIDTH, HEIGHT)):
    """A film of RGB pictures."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), RATE, size
    )
    assert writer.isOpened()
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return str(path)


def squares(count, *paths):
    """Black frames with a bright square at each of some places, which move."""
    for number in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for shade, path in zip((250, 180), paths, strict=False):
            x, y = path(number)
            picture[y : y + FACE, x : x + FACE] = shade
        yield picture


class Squares:
    """A detector of bright squares, by their shade; counts its frames."""

    def __init__(self):
        self.frames = 0

    def __repr__(self):
        return "Squares()"

    def __call__(self, image):
        self.frames += 1
        found = []
        for shade in (250, 180):
            is_shade = np.abs(image[..., 0].astype(int) - shade) < 25
            y, x = np.nonzero(is_shade)
            if len(x) > FACE:
                box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
                found.append(Detection(box, 0.9))
        return found


def right(number):
    return 20 + 6 * number, 40


def left(number):
    return 240 - 6 * number, 120


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4", squares(30, right))


@pytest.fixture
def detector():
    return Squares()


def model(detector):
    return Predictor(readable_runtime(), detector)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows, name):
    return np.array([float(row[name]) for row in rows])


def test_a_row_a_track_is_the_mean_of_its_frames(clip, tmp_path, detector):
    output, every = tmp_path / "rows.csv", tmp_path / "frames.csv"
    summary = video.predict([clip], model(detector), output, frames=every)
    (row,), found = read(output), read(every)
    assert list(row) == list(tracks.COLUMNS)
    assert list(found[0]) == list(tracks.FRAME_COLUMNS)
    assert [int(one["frame"]) for one in found] == list(range(30))
    assert numbers(found, "seconds") == pytest.approx(np.arange(30) / RATE, abs=1e-3)
    # The first might be a mistake of the detector.
    assert found[0]["track"] == "" and {one["track"] for one in found[1:]} == {"0"}
    names = ("age", "p_gender_female", "p_race_white", "detection_score")
    for name in names:
        assert float(row[name]) == pytest.approx(
            numbers(found[1:], name).mean(), abs=0.01
        )
    fractions = {one: float(row[f"p_gender_{one}"]) for one in ("male", "female")}
    assert row["gender"] == max(fractions, key=fractions.get)
    assert (row["frames"], row["first_frame"], row["last_frame"]) == ("29", "1", "29")
    assert (row["start"], row["end"], row["status"]) == ("0.1", "2.9", "ok")
    place = right(int(row["largest_frame"]))
    corner = (int(row["left"]), int(row["top"]))
    assert np.abs(np.subtract(corner, place)).max() <= 3
    assert (summary.tracks, summary.exit_code) == (1, 0)
    assert "films: 1, tracks: 1, films without a face: 0" in str(summary)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clip.mp4", "frames.csv", "rows.csv"
    ]  # fmt: skip


def test_frames_are_those_that_another_reading_gives(clip, tmp_path, detector):
    """Opened by itself, a frame gives the very row."""
    every = tmp_path / "frames.csv"
    video.predict([clip], model(detector), tmp_path / "rows.csv", frames=every)
    capture = cv2.VideoCapture(clip)
    for row in read(every):
        (face,) = model(detector)(capture.read()[1][..., ::-1].copy())
        assert float(row["age"]) == pytest.approx(face.age, abs=0.005)
        box = [int(row[name]) for name in ("left", "top", "right", "bottom")]
        assert tuple(box) == face.box


def test_every_third_frame(clip, tmp_path, detector):
    every = tmp_path / "frames.csv"
    video.predict(
        [clip], model(detector), tmp_path / "rows.csv", frames=every, frame_step=3
    )
    assert [int(one["frame"]) for one in read(every)] == list(range(0, 30, 3))
    assert detector.frames == 10


def test_two_faces_that_cross_keep_their_numbers(tmp_path, detector):
    path = write(
        tmp_path / "two.mp4",
        squares(36, right, lambda i: (left(i)[0], 80)),
    )
    output, every = tmp_path / "rows.csv", tmp_path / "frames.csv"
    video.predict([path], model(detector), output, frames=every)
    assert len(read(output)) == 2
    for number in ("0", "1"):
        steps = np.diff(
            [int(one["left"]) for one in read(every) if one["track"] == number]
        )
        # One goes right all the time, the other left.
        assert len({np.sign(step) for step in steps if step}) == 1


def test_a_face_behind_another_keeps_its_number():
    """At the same height; the one behind is not found for six frames."""

    def seen(x):
        return Seen((x, 50, x + FACE, 50 + FACE), 0.9, {})

    film = []
    for i in range(50):
        front, behind = seen(10 + 6 * i), seen(300 - 6 * i)
        is_hidden = abs(front.box[0] - behind.box[0]) < 20
        faces = (front,) if is_hidden else (front, behind)
        film.append(SeenFrame(i, i / RATE, faces))
    hidden = sum(len(frame.faces) == 1 for frame in film)
    assert hidden == 3
    found = list(tracks.follow(film, RATE))
    first, last = found[1][1], found[-1][1]
    assert first == last and len(set(first)) == 2


def test_a_face_that_was_away_for_long_is_another_track():
    def frame(i):
        away = 10 <= i < 40
        return SeenFrame(i, i / RATE, () if away else (Seen((9, 9, 69, 69), 0.9, {}),))

    found = [one for _, one in tracks.follow(map(frame, range(60)), RATE)]
    assert found[9] != found[59] and {len(one) for one in found} == {0, 1}


def test_the_astronaut_walks_through_a_scene(tmp_path):
    """A photograph, the detector that comes along: the box follows the face."""
    face = np.asarray(astronaut().crop((120, 0, 330, 290)).resize((87, 120)))
    scene = np.asarray(background(WIDTH, HEIGHT))

    def pictures():
        for i in range(12):
            picture = scene.copy()
            picture[60:180, 10 + 12 * i : 97 + 12 * i] = face
            yield picture

    path = write(tmp_path / "walk.avi", pictures(), "MJPG")
    every = tmp_path / "frames.csv"
    video.predict(
        [path], Predictor(readable_runtime()), tmp_path / "rows.csv", frames=every
    )
    assert len(read(tmp_path / "rows.csv")) == 1
    assert np.diff(numbers(read(every), "left")) == pytest.approx([12] * 11, abs=2)


def test_a_film_without_a_face_has_its_row(tmp_path, detector, capsys):
    path = write(tmp_path / "none.mp4", squares(5))
    output, every = tmp_path / "rows.csv", tmp_path / "frames.csv"
    summary = video.predict([path], model(detector), output, frames=every)
    (row,) = read(output)
    assert row["status"] == "no_face" and row["track"] == ""
    assert [one["status"] for one in read(every)] == ["no_face"] * 5
    assert summary.exit_code == 0
    video.predict([path], model(detector))
    assert "none.mp4: no face found" in capsys.readouterr().out


def test_broken_films_have_their_reason_and_are_tried_again(tmp_path, clip, detector):
    whole = Path(clip).read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film at all" * 100)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mov").touch()
    # FFmpeg would fetch what such a list names.
    listed = tmp_path / "list.mp4"
    listed.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    paths = [str(broken), str(cut), str(tmp_path / "empty.mov"), str(listed), clip]
    assert video.films_of(paths) == paths
    output = tmp_path / "rows.csv"
    summary = video.predict(paths, model(detector), output)
    reasons = [row["status"] for row in read(output)]
    assert all(one.startswith("unreadable: ") for one in reasons[:4])
    assert "none that is known" in reasons[0] and "was it cut off?" in reasons[1]
    assert "the file is empty" in reasons[2] and reasons[4] == "ok"
    assert "none that is known" in reasons[3]
    assert summary.exit_code == 4
    broken.write_bytes(whole)
    again = video.predict(paths, model(detector), output)
    assert again.exit_code == 3
    statuses = {row["file"]: row["status"] for row in read(output)}
    assert statuses[str(broken)] == "ok" and len(read(output)) == 5


def test_a_film_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path, detector):
    path = write(tmp_path / "whole.avi", squares(40, lambda i: (20 + i, 40)), "MJPG")
    content = Path(path).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) // 2])
    output = tmp_path / "rows.csv"
    summary = video.predict([str(cut)], model(detector), output)
    (row,) = read(output)
    status = row["status"]
    assert status.startswith("ok: truncated: ") and "of 40 frames" in status
    read_frames = int(status.split()[2])
    assert 10 < read_frames < 30 and int(row["last_frame"]) == read_frames - 1
    assert (summary.partial, summary.exit_code) == (1, 0)
    # Repaired since, it has the rows of the whole one.
    cut.write_bytes(content)
    video.predict([str(cut)], model(detector), output)
    (row,) = read(output)
    assert (row["status"], row["frames"]) == ("ok", "39")


def test_a_turned_film_is_upright(clip, tmp_path):
    """The matrix of a track header turns a film by quarters (ISO/IEC 14496-12)."""
    content = Path(clip).read_bytes()
    one = 1 << 16
    straight = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, HEIGHT << 16, 0, 1 << 30)
    at = content.index(straight, content.index(b"tkhd"))
    path = tmp_path / "turned.mp4"
    path.write_bytes(content[:at] + turned + content[at + 36 :])
    with frames.Film(clip) as film, frames.Film(str(path)) as other:
        for plain, rotated in zip(film.frames(), other.frames(), strict=True):
            assert rotated.image.shape == (WIDTH, HEIGHT, 3)
            clockwise = np.rot90(plain.image, -1).astype(int)
            assert np.abs(clockwise - rotated.image).mean() < 2


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_run_that_was_broken_off_goes_on_at_its_frame(clip, tmp_path, ending):
    def predict(detector, name):
        outputs = [tmp_path / f"{name}_{part}.{ending}" for part in ("rows", "frames")]
        video.predict(
            [clip], model(detector), outputs[0], frames=outputs[1], batch_size=4
        )
        return [path.read_bytes() for path in outputs]

    class Stops(Squares):
        def __call__(self, image):
            if self.frames == 17:
                raise KeyboardInterrupt
            return super().__call__(image)

    unbroken = predict(Squares(), "whole")
    with pytest.raises(KeyboardInterrupt):
        predict(Stops(), "broken")
    (log,) = tmp_path.glob("*.unfinished")
    # What a crash may leave of the next batch.
    log.write_bytes(log.read_bytes() + b'{"next": 24, "frames": [[20, 2.0')
    second = Squares()
    assert predict(second, "broken") == unbroken
    # Three or four batches of four were kept.
    assert second.frames in (14, 18) and not list(tmp_path.glob("*.unfinished"))
    third = Squares()
    assert predict(third, "broken") == unbroken and third.frames == 0


def test_a_crash_between_the_rows_and_the_end_of_the_log(clip, tmp_path, monkeypatch):
    output = tmp_path / "rows.csv"
    video.predict([clip], model(Squares()), output)
    unbroken = output.read_bytes()
    output.unlink()
    monkeypatch.setattr(video.FrameLog, "delete", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        video.predict([clip], model(Squares()), output)
    monkeypatch.undo()
    # And the last row was torn.
    output.write_bytes(output.read_bytes()[:-20])
    detector = Squares()
    video.predict([clip], model(detector), output)
    assert output.read_bytes() == unbroken and detector.frames == 0


def test_a_film_that_changed_begins_anew(clip, tmp_path, caplog):
    class Stops(Squares):
        def __call__(self, image):
            if self.frames == 17:
                raise KeyboardInterrupt
            return super().__call__(image)

    output = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        video.predict([clip], model(Stops()), output, batch_size=4)
    write(clip, squares(12, right))
    detector = Squares()
    video.predict([clip], model(detector), output)
    assert detector.frames == 12 and read(output)[0]["frames"] == "11"
    assert "begins anew" in caplog.text


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path):
    """kill -9 in the middle; the same command; the rows of an unbroken run."""
    face = np.asarray(astronaut().crop((120, 0, 330, 290)).resize((87, 120)))

    def pictures():
        for i in range(40):
            picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            picture[60:180, 10 + 5 * i : 97 + 5 * i] = face
            yield picture

    clip = write(tmp_path / "clip.mp4", pictures())
    script = f"""
import sys
sys.argv = ["predict.py", {clip!r}, "--batch_size=2", "--output=" + sys.argv[1]]
from hydranet_tf.commands import running
running.script("predict")
"""

    def start(name):
        return subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / name)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    broken = start("broken.csv")
    while not any(
        path.read_bytes().count(b"\n") > 4 for path in tmp_path.glob("*.unfinished")
    ):
        assert broken.poll() is None, broken.stderr.read()
    broken.kill()
    broken.communicate()
    assert list(tmp_path.glob("*.unfinished")) and not read(tmp_path / "broken.csv")
    for name in ("broken.csv", "whole.csv"):
        process = start(name)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert (tmp_path / "broken.csv").read_bytes() == (
        tmp_path / "whole.csv"
    ).read_bytes()
    assert len(read(tmp_path / "whole.csv")) == 1


def test_frames_are_not_kept(tmp_path):
    path = write(tmp_path / "long.avi", squares(60, lambda i: (20, 40)), "MJPG")
    alive: list[weakref.ref] = []
    most = 0

    class Watches(Squares):
        def __call__(self, image):
            nonlocal most
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            return super().__call__(image)

    gc.disable()
    try:
        video.predict([path], model(Watches()), tmp_path / "rows.csv", batch_size=8)
    finally:
        gc.enable()
    # Those that threads search, and the one that is read.
    assert len(alive) == 60 and most <= 6


def test_an_annotated_film(tmp_path, detector):
    """As long as the film, its size but for an odd last row; boxes at the faces."""
    path = write(tmp_path / "clip.avi", squares(20, right), "MJPG")
    summary = video.predict(
        [path], model(detector), tmp_path / "rows.csv", annotate=tmp_path / "drawn"
    )
    drawn = tmp_path / "drawn" / "clip.mp4"
    assert summary.drawn == (drawn,) and str(drawn) in str(summary)
    assert [one.name for one in drawn.parent.iterdir()] == ["clip.mp4"]
    with frames.Film(str(drawn)) as film:
        assert film.rate == RATE
        found = list(film.frames())
    assert [one.number for one in found] == list(range(20))
    for one in found[1:]:
        assert one.image.shape == (HEIGHT, WIDTH, 3)
        x, y = right(one.number)
        # Orange along the left edge of the box, over white and black.
        edge = one.image[y + 10 : y + 50, x - 3 : x + 4].astype(int)
        assert (edge[..., 0] - edge[..., 2]).max(axis=1).mean() > 60


def test_an_annotated_film_of_an_odd_size(tmp_path):
    with video._Writer(tmp_path / "odd.mp4", 10) as writer:
        for _ in range(3):
            writer.add(np.full((61, 83, 3), 99, np.uint8))
    with frames.Film(str(tmp_path / "odd.mp4")) as film:
        (shape,) = {frame.image.shape for frame in film.frames()}
    assert shape == (60, 82, 3)


def test_films_are_not_written_over(clip, tmp_path, detector):
    with pytest.raises(video.VideoError, match="would write over"):
        video.predict([clip], model(detector), annotate=tmp_path)
    (tmp_path / "b").mkdir()
    other = write(tmp_path / "b" / "clip.mp4", squares(3))
    with pytest.raises(video.VideoError, match="would write over"):
        video.predict([clip, other], model(detector), annotate=tmp_path / "drawn")


class Capture:
    """A camera as OpenCV gives one: frames come until someone presses Ctrl-C."""

    def __init__(self, source, *_):
        self.source, self.left = source, list(squares(12, right))

    def isOpened(self):
        return self.source == 0

    def get(self, _):
        return 0.0

    def grab(self):
        if not self.left:
            raise KeyboardInterrupt
        self.image = self.left.pop(0)[..., ::-1]
        return True

    def retrieve(self):
        return True, self.image

    def release(self):
        self.left = None


def test_a_camera_ends_with_ctrl_c_and_has_its_rows(tmp_path, monkeypatch, detector):
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    output, every = tmp_path / "rows.csv", tmp_path / "frames.csv"
    summary = video.predict(
        [], model(detector), output, camera="0", frames=every,
        annotate=tmp_path / "drawn",
    )  # fmt: skip
    (row,) = read(output)
    assert row["file"].startswith("camera 0 2") and row["frames"] == "11"
    assert len(read(every)) == 12 and summary.exit_code == 0
    monkeypatch.undo()
    with frames.Film(str(summary.drawn[0])) as film:
        assert len(list(film.frames())) == 12


def test_a_recording_that_was_killed_is_written_by_the_next(tmp_path, monkeypatch):
    class Dies(Squares):
        def __call__(self, image):
            if self.frames == 8:
                raise SystemExit
            return super().__call__(image)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    output, every = tmp_path / "rows.csv", tmp_path / "frames.csv"
    with pytest.raises(SystemExit):
        video.predict([], model(Dies()), output, camera="0")
    assert not read(output)
    # By a film, too: what it has to do with the camera is the table alone.
    monkeypatch.undo()
    film = write(tmp_path / "none.mp4", squares(2))
    video.predict([film], model(Squares()), output, frames=every)
    first, second = read(output)
    assert first["file"].startswith("camera 0 2") and first["frames"] == "7"
    assert second["status"] == "no_face" and not list(tmp_path.glob("*.unfinished"))
    assert len(read(every)) == 8 + 2


def test_a_camera_that_is_not_there(tmp_path, monkeypatch, detector):
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    with pytest.raises(frames.FilmError, match="none with the number 1") as caught:
        video.predict([], model(detector), tmp_path / "rows.csv", camera="1")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_film_as_the_address_of_a_camera(clip, tmp_path, detector):
    output = tmp_path / "rows.csv"
    video.predict([], model(detector), output, camera=clip)
    rows = read(output)
    assert rows[0]["file"].startswith(f"camera {clip} 2")
    assert {row["status"] for row in rows} == {"ok"}


def test_pictures_and_films_have_tables_of_their_own(clip, tmp_path, detector):
    picture = tmp_path / "a.png"
    astronaut().resize((32, 32)).save(picture)
    with pytest.raises(PathsError, match="not both in one command"):
        video.films_of([clip, str(picture)])
    with pytest.raises(PathsError, match="a camera or films"):
        video.predict([clip], model(detector), camera="0")
    # By content: a picture that is named like a film is a picture.
    renamed = picture.rename(tmp_path / "a.mp4")
    assert video.films_of([str(renamed), str(tmp_path)]) == []
    assert video.films_of([str(tmp_path / "cl*.mp4")]) == [clip]
    output = tmp_path / "faces.csv"
    output.write_text("file,face\n")
    with pytest.raises(RowsError, match="something else"):
        video.predict([clip], model(detector), output)
    assert output.read_text() == "file,face\n"


def test_frames_need_an_output_of_their_own(clip, tmp_path, detector):
    with pytest.raises(video.VideoError, match="--output beside --frames"):
        video.predict([clip], model(detector), frames=tmp_path / "frames.csv")
    with pytest.raises(video.VideoError, match="another file"):
        video.predict(
            [clip], model(detector), tmp_path / "a.csv", frames=tmp_path / "a.csv"
        )


def test_a_detector_that_fails(clip, tmp_path):
    def fails(image):
        raise DetectionError("no")

    summary = video.predict([clip], model(fails), tmp_path / "rows.csv")
    assert read(tmp_path / "rows.csv")[0]["status"] == "failed: no"
    assert summary.exit_code == 1


def test_lines_where_there_is_no_output(clip, detector, capsys):
    video.predict([clip], model(detector))
    out = capsys.readouterr().out
    assert "clip.mp4: track 0, 0.1 to 2.9 s, 29 frames: " in out
    assert out.endswith("not facts.\n")


def test_without_the_extra_a_line_says_what_to_install(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ImportError) as caught:
        video.predict([clip], model(Squares()), tmp_path / "rows.csv")
    assert "hydranet_tf[video]" in errors.installation_hint(caught.value)
    assert not (tmp_path / "rows.csv").exists()


def test_a_log_keeps_numbers_as_they_are(tmp_path):
    """Means over a log are those over what was predicted, to the last bit."""
    values = {"age": 1 / 3, "p_gender_male": float(np.float32(0.1))}
    kept = SeenFrame(7, 2 / 3, (Seen((1, 2, 3, 4), None, values),))
    with video.FrameLog(tmp_path / "log", {"a": 1}) as log:
        log.add([kept], 8)
    with video.FrameLog(tmp_path / "log", {"a": 1}) as log:
        assert list(log.frames()) == [kept] and log.next_frame == 8
        assert not log.is_complete
    json.loads((tmp_path / "log").read_text().splitlines()[1])


def test_settings_of_the_detector_are_part_of_the_log():
    """Another --min_score begins anew; the same one goes on."""
    assert repr(FaceFinder(0.8)) != repr(FaceFinder()) == repr(FaceFinder())
