"""Order, cache, batches, and what happens to bad images."""

import dataclasses
import sys
import traceback
from pathlib import Path

import forks
import numpy as np
import pytest
import synthetic

from hydranet_tf.data import graph_decoding, pipeline, sources
from hydranet_tf.data.pipeline import BadImagesError, TooFewExamplesError
from hydranet_tf.tasks import MISSING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("faces"), 37)


def examples(folder):
    return sources.open_source(str(folder), "all")


def load(folder, cache="memory", **options):
    return pipeline.load_faces(examples(folder), 32, cache, **options)


def ids(faces, batches):
    """Which examples a data set gave, told by their labels' rows."""
    keys = [
        tuple(values)
        for values in zip(
            *(faces.examples.labels[n] for n in ("age", "gender", "race")),
            strict=True,
        )
    ]
    seen = []
    for _, labels in batches.as_numpy_iterator():
        rows = zip(*(labels[n] for n in ("age", "gender", "race")), strict=True)
        seen.append([keys.index(tuple(row)) for row in rows])
    return seen


def test_labels_tell_the_examples_apart(folder):
    # What `ids` stands on.
    labels = examples(folder).labels
    rows = set(zip(labels["age"], labels["gender"], labels["race"], strict=True))
    assert len(rows) == 37


@pytest.mark.parametrize("batch_size", [1, 5, 32, 37, 64])
def test_evaluation_sees_every_example_once_in_order(folder, batch_size):
    faces = load(folder)
    seen = ids(faces, pipeline.evaluation_batches(faces, batch_size))
    assert sum(seen, []) == list(range(37))


def test_validation_is_filled_up_with_faces_that_count_nowhere(folder):
    faces = load(folder)
    batches = list(pipeline.validation_batches(faces, 16).take(6))
    assert [len(images) for images, _ in batches] == [16] * 6
    for round_of_three in (batches[:3], batches[3:]):
        for name, expected in faces.examples.labels.items():
            found = np.concatenate([labels[name] for _, labels in round_of_three])
            np.testing.assert_array_equal(found[:37], expected)
            assert (found[37:] == MISSING).all() and len(found) == 48
        images = np.concatenate([images for images, _ in round_of_three])
        np.testing.assert_array_equal(images[:37], faces.images)


def test_same_seed_same_order_new_epoch_new_order(folder):
    faces = load(folder)

    def epochs(seed, first_epoch=0, skip=0, batches=14):
        data = pipeline.training_batches(faces, 5, seed, first_epoch, skip)
        return ids(faces, data.take(batches))

    first = epochs(seed=4)
    assert first == epochs(seed=4)
    assert first != epochs(seed=5)
    one, two = sum(first[:7], []), sum(first[7:], [])
    # Seven batches of five: each epoch 35 different ones of the 37.
    assert len(set(one)) == len(set(two)) == 35
    assert one != two and one != sorted(one)
    # The second epoch, and the rest of the first, are what they were.
    assert epochs(seed=4, first_epoch=1, batches=7) == first[7:]
    assert epochs(seed=4, skip=3, batches=11) == first[3:]


def test_caches_change_nothing_but_the_time(folder, tmp_path):
    batches = []
    for cache in ("memory", "none", str(tmp_path / "cache")):
        faces = load(folder, cache)
        data = pipeline.training_batches(faces, 8, seed=1)
        batches.append([
            (images, labels) for images, labels in data.take(6).as_numpy_iterator()
        ])  # fmt: skip
    for other in batches[1:]:
        for (images, labels), (images2, labels2) in zip(batches[0], other, strict=True):
            np.testing.assert_array_equal(images, images2)
            for name in labels:
                np.testing.assert_array_equal(labels[name], labels2[name])


def test_images_are_those_of_their_labels(folder):
    faces = load(folder)
    for number in (0, 11, 36):
        encoded = faces.examples.read(number)
        np.testing.assert_array_equal(
            faces.images[number], graph_decoding.decode_and_resize(encoded, 32)
        )


def test_file_cache_is_found_again_without_decoding(folder, tmp_path, monkeypatch):
    first = load(folder, str(tmp_path))
    assert isinstance(first.images, np.memmap)

    def fail(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(pipeline, "_decode_all", fail)
    again = load(folder, str(tmp_path))
    np.testing.assert_array_equal(first.images, again.images)


def test_images_that_are_decoded_need_no_compiler(folder, tmp_path):
    """As a second run finds them."""
    load(folder, str(tmp_path))
    assert "numba" in sys.modules
    script = f"""if True:
        import sys
        from hydranet_tf.data import pipeline, sources

        examples = sources.open_source({str(folder)!r}, "all")
        faces = pipeline.load_faces(examples, 32, {str(tmp_path)!r})
        print(len(list(pipeline.evaluation_batches(faces, 16))), "numba" in sys.modules)
    """
    done = forks.run(["-c", script])
    assert done.stdout == "3 False\n", done.stderr


def test_tensorflow_does_not_translate_the_reading(folder):
    """It did, which took half of the time."""
    faces = load(folder, "none")
    callers = set()

    def read(i):
        callers.update(frame.filename for frame in traceback.extract_stack())
        return examples(folder).read(i)

    watched = dataclasses.replace(
        faces, examples=dataclasses.replace(faces.examples, read=read)
    )
    for _ in pipeline.evaluation_batches(watched, 16):
        pass
    assert pipeline.__file__ in callers
    assert [name for name in callers if "autograph" in Path(name).name] == []


def test_unfinished_file_cache_is_not_trusted(folder, tmp_path):
    faces = load(folder, str(tmp_path))
    expected = np.array(faces.images)
    (array,) = tmp_path.glob("*.npy")
    (done,) = tmp_path.glob("*.json")
    # As a run leaves them that was killed while it decoded.
    done.unlink()
    np.lib.format.open_memmap(array, "w+", np.uint8, expected.shape).flush()
    np.testing.assert_array_equal(load(folder, str(tmp_path)).images, expected)


@pytest.fixture
def damaged(tmp_path):
    """Ten good images and three bad ones."""
    folder = synthetic.write_folder(tmp_path / "faces", 10)
    good = sorted(folder.glob("*.jpg"))
    data = good[0].read_bytes()
    (folder / "41_0_1_20170101000000100.jpg.chip.jpg").write_bytes(b"")
    (folder / "42_0_1_20170101000000101.jpg.chip.jpg").write_bytes(data[:300])
    (folder / "43_0_1_20170101000000102.jpg.chip.jpg").write_text("no image")
    return folder


@pytest.mark.parametrize("damage", ["cut", "nonsense", "other", "list"])
def test_damaged_file_cache_says_what_to_delete(folder, tmp_path, damage):
    load(folder, str(tmp_path))
    (images,) = tmp_path.glob("*.npy")
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1000])
    elif damage == "nonsense":
        images.write_bytes(b"no array at all")
    elif damage == "other":
        np.save(images, np.zeros((3, 32, 32, 3), np.uint8))
    else:
        images.with_suffix(".json").write_text("[1]")
    with pytest.raises(pipeline.DamagedCacheError, match="Delete that"):
        load(folder, str(tmp_path))


@pytest.mark.parametrize("cache", ["memory", "none", "file"])
def test_bad_images_are_left_out_and_named(damaged, tmp_path, cache):
    cache = str(tmp_path / "cache") if cache == "file" else cache
    for _ in range(2):
        # The second time a file cache is read instead of filled.
        faces = load(damaged, cache, max_bad_images=3)
        assert len(faces) == 10
        assert [bad.id[:2] for bad in faces.bad] == ["41", "42", "43"]
        reasons = " ".join(bad.reason for bad in faces.bad)
        assert (
            "is empty" in reasons
            and "truncated JPEG" in reasons
            and "no image" in reasons
        )
        ages = []
        for images, labels in pipeline.evaluation_batches(faces, 4):
            assert images.shape[1:] == (32, 32, 3)
            ages.extend(labels["age"].numpy())
        np.testing.assert_array_equal(ages, faces.examples.labels["age"])
        assert not set(ages) & {41, 42, 43} or len(set(ages)) == 10


def test_too_many_bad_images_stop_the_run_with_their_names(damaged):
    with pytest.raises(BadImagesError, match="--max_bad_images") as caught:
        load(damaged, max_bad_images=2)
    message = str(caught.value)
    assert message.startswith("3 of 13 images")
    assert "42_0_1_20170101000000101.jpg.chip.jpg: " in message


def test_fewer_examples_than_a_batch_is_an_error(folder):
    faces = load(folder)
    with pytest.raises(TooFewExamplesError, match="lower --batch_size"):
        pipeline.training_batches(faces, 38, seed=0)
