"""tf.data from examples to batches.

    order -> batch -> (decoded cache | read and decode) -> prefetch

The order is drawn over example numbers, not over images: it is a full
permutation whatever the size of the set, costs nothing to repeat from any
epoch or step, and is the same with and without a cache. Augmentation comes
after all of this, in the network, so nothing random is ever cached.

Where not each example is seen once an epoch, they are divided into strata: those of one
source, or of one group. An epoch takes a fixed number of each. A stratum hands out all
its examples before one comes again, across epochs, so that none is favoured and none is
forgotten.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from hydranet_tf.data import decoding, formats
from hydranet_tf.data.sources import Examples, Skipped
from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import atomic
from hydranet_tf.tasks import MISSING

NO_CACHE = "none"
MEMORY_CACHE = "memory"

# A tf.data range needs an end; no run comes near it.
_FOREVER = 2**31 - 1
# Examples that one thread decodes in a go when all are.
_PORTION = 64
# Threads that read pictures. More would wait for Python's lock, which each holds for a
# tenth of its time.
_READERS = min(os.cpu_count() or 1, 8)
# Batches that wait to be used.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Stratum:
    """Examples that are drawn together.

    Attributes:
        name: for messages.
        numbers: `[n]` int64 numbers of its examples, at least one.
        quota: how many an epoch takes.
    """

    name: str
    numbers: np.ndarray
    quota: int


def quotas(weights: Sequence[float], total: int) -> list[int]:
    """Divides `total` in proportion to `weights`, by largest remainders.

    Returns:
        One integer for each weight; they sum up to `total`, and a weight above 0 gives
        at least 1 where `total` is large enough.
    """
    parts = np.asarray(weights, np.float64)
    exact = parts / parts.sum() * total
    found = np.floor(exact).astype(int)
    # Stable, so that equal remainders go to the first.
    order = np.argsort(found - exact, kind="stable")
    found[order[: total - found.sum()]] += 1
    wanting = np.flatnonzero((found == 0) & (parts > 0))
    if total >= np.count_nonzero(parts):
        for number in wanting:
            found[np.argmax(found)] -= 1
            found[number] = 1
    return found.tolist()


def epoch_order(strata: Sequence[Stratum], seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch in the order in which it takes them.

    A function of its arguments alone: a resumed run goes on with the same examples.

    Returns:
        int64 `[sum of the quotas]`.
    """
    taken = [
        _taken_of(stratum, number, seed, epoch) for number, stratum in enumerate(strata)
    ]
    together = np.random.default_rng([seed, len(strata), epoch])
    return together.permutation(np.concatenate(taken))


def _taken_of(stratum: Stratum, number: int, seed: int, epoch: int) -> np.ndarray:
    """Of the stratum's endless row of permutations, the part of this epoch."""
    size = len(stratum.numbers)
    start, end = epoch * stratum.quota, (epoch + 1) * stratum.quota
    rounds = range(start // size, -(-end // size))
    row = [np.random.default_rng([seed, number, r]).permutation(size) for r in rounds]
    first = start - rounds.start * size if rounds else 0
    chosen = np.concatenate([np.empty(0, int), *row])[first : first + stratum.quota]
    return stratum.numbers[chosen].astype(np.int64)


class BadImagesError(HydraNetError, ValueError):
    """More images could not be decoded than the user allows."""


class DamagedCacheError(HydraNetError, ValueError):
    """Decoded images that cannot be read again."""


class TooFewExamplesError(HydraNetError, ValueError):
    """Not even one batch can be filled."""


@dataclasses.dataclass(frozen=True)
class Faces:
    """Examples whose images are known to decode.

    Attributes:
        examples: ids and labels, in the source's order.
        image_size: side of the images in pixels.
        images: uint8 `[n, side, side, 3]` in memory or mapped from a file;
            None where images are decoded anew each time.
        bad: what could not be decoded and why; not among `examples`.
        soft_labels: `[n]` or `[n, classes]` by name, go into batches beside the labels.
        strata: how many of which examples an epoch of training takes, where it does
            not take each once.
        weights: `[n]` float32 what each counts in the loss; None for 1 each.
    """

    examples: Examples
    image_size: int
    images: np.ndarray | None
    bad: tuple[Skipped, ...]
    soft_labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    strata: tuple[Stratum, ...] = ()
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def digest(self) -> str:
        """SHA-256 (hex) over what is learned from: ids, labels and soft labels."""
        if not self.soft_labels:
            return self.examples.digest()
        digest = hashlib.sha256(self.examples.digest().encode())
        # By id, for the order of examples does not count.
        order = np.argsort(self.examples.ids)
        for name, values in sorted(self.soft_labels.items()):
            digest.update(name.encode() + values[order].tobytes())
        return digest.hexdigest()


def load_faces(
    examples: Examples,
    image_size: int,
    cache: str = MEMORY_CACHE,
    max_bad_images: int = 10,
) -> Faces:
    """Decodes every image once: finds the bad ones and fills the cache.

    A bad image met later, hours into a run, could only stop the run or be
    passed over in silence; so all are opened before the first step.

    Args:
        examples: what to load.
        image_size: side in pixels.
        cache: `"memory"` keeps the decoded images in memory; `"none"` decodes
            them again in every epoch; anything else is a folder that keeps
            them in a memory-mapped file, which later runs find again.
        max_bad_images: how many may be left out with a warning.

    Raises:
        BadImagesError: if more images than that are bad; names some of them
            with the reason.
        DamagedCacheError: if the folder's file is not what was written.
    """
    folder = None if cache in (NO_CACHE, MEMORY_CACHE) else Path(cache)
    shape = (len(examples), image_size, image_size, 3)
    if folder is not None:
        found = _cached_file(examples, image_size, folder)
        if found.with_suffix(".json").exists():
            images, bad = _read_cache(found, shape)
            return _without_bad(examples, image_size, images, bad, max_bad_images)
        folder.mkdir(parents=True, exist_ok=True)
        file = np.lib.format.open_memmap(found, "w+", np.uint8, shape)
        bad = _decode_all(examples, image_size, file)
        file.flush()
        # Written last: without it the array counts as unfinished.
        rows = [dataclasses.asdict(skipped) for skipped in bad]
        atomic.write_text(found.with_suffix(".json"), json.dumps(rows))
        return _without_bad(examples, image_size, file, bad, max_bad_images)
    kept = np.empty(shape, np.uint8) if cache == MEMORY_CACHE else None
    bad = _decode_all(examples, image_size, kept)
    return _without_bad(examples, image_size, kept, bad, max_bad_images)


def select(faces: Faces, rows: np.ndarray) -> Faces:
    """Some of the faces, by their numbers, without strata."""
    return dataclasses.replace(
        faces,
        examples=faces.examples.select(rows),
        images=None if faces.images is None else faces.images[rows],
        soft_labels={name: values[rows] for name, values in faces.soft_labels.items()},
        strata=(),
        weights=None if faces.weights is None else faces.weights[rows],
    )


def training_batches(
    faces: Faces,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    skip_batches: int = 0,
) -> tf.data.Dataset:
    """Endless batches; each epoch is a new order of all examples.

    The order of epoch e is a function of (seed, e) alone. What does not fill
    a last batch is left out of that epoch, which is another remainder each
    time. An epoch has `steps_per_epoch(faces, batch_size)` batches. With strata it
    takes of each its quota, see `epoch_order`.

    Args:
        faces: the images.
        batch_size: examples in a batch.
        seed: of the order.
        first_epoch: number of the epoch to begin with.
        skip_batches: how many of its batches have been used already.

    Returns:
        A dataset of (uint8 images `[batch, side, side, 3]`, dict of labels
        `[batch]` and soft labels `[batch, classes]`), and weights `[batch]` where the
        faces have some.
    """
    steps_per_epoch(faces, batch_size)
    count = len(faces)

    def drawn(epoch):
        return epoch_order(faces.strata, seed, int(epoch))

    def in_order(epoch):
        if faces.strata:
            order = tf.numpy_function(drawn, [epoch], tf.int64, stateful=False)
            order = tf.ensure_shape(order, [_drawn(faces)])
        else:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(count, dtype=tf.int64),
                seed=tf.stack([tf.constant(seed, tf.int64), epoch]),
            )
        batches = tf.data.Dataset.from_tensor_slices(order)
        return batches.batch(batch_size, drop_remainder=True)

    order = tf.data.Dataset.range(first_epoch, _FOREVER).flat_map(in_order)
    if skip_batches:
        order = order.skip(skip_batches)
    return _fetch(faces, order, faces.weights)


def evaluation_batches(faces: Faces, batch_size: int) -> tf.data.Dataset:
    """Every example once, in order; the last batch may be smaller."""
    order = tf.data.Dataset.range(len(faces)).batch(batch_size)
    return _fetch(faces, order)


def validation_batches(
    faces: Faces, batch_size: int, by_source: bool = True
) -> tf.data.Dataset:
    """Endless rounds of all examples in order, all batches of one size.

    A round is `validation_steps(faces, batch_size)` batches, source after source.
    Black images without labels, which no masked loss or score counts, fill up the last
    of each source (without `by_source` of all), so that devices can share each batch.
    Endless, because Keras cannot tell the end of a data set that processes share on
    JAX from one that broke off.
    """

    def fill(images, labels):
        missing = batch_size - tf.shape(images)[0]
        images = tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])
        size = faces.image_size
        return tf.ensure_shape(images, [batch_size, size, size, 3]), {
            name: tf.ensure_shape(
                tf.pad(values, [[0, missing]], constant_values=MISSING), [batch_size]
            )
            for name, values in labels.items()
        }

    parts = _by_source(faces) if by_source else {"": np.arange(len(faces))}
    order = functools.reduce(
        tf.data.Dataset.concatenate,
        (
            tf.data.Dataset.from_tensor_slices(rows.astype(np.int64)).batch(batch_size)
            for rows in parts.values()
        ),
    )
    return _fetch(faces, order).map(fill).repeat()


def validation_steps(faces: Faces, batch_size: int) -> int:
    """Number of batches in a round of `validation_batches`."""
    return sum(source_steps(faces, batch_size).values())


def source_steps(faces: Faces, batch_size: int) -> dict[str, int]:
    """How many batches of a round are each source's, in order.

    By the source's name; by a blank one where there is one source alone.
    """
    return {
        name: math.ceil(len(rows) / batch_size)
        for name, rows in _by_source(faces).items()
    }


def _by_source(faces: Faces) -> dict[str, np.ndarray]:
    found = faces.examples.by_source()
    there = {name: rows for name, rows in found.items() if len(rows)}
    return there or {"": np.arange(len(faces))}


def steps_per_epoch(faces: Faces, batch_size: int) -> int:
    """Number of full batches.

    Raises:
        TooFewExamplesError: if there is not even one.
    """
    count = _drawn(faces)
    if count < batch_size:
        raise TooFewExamplesError(
            f"a batch takes {batch_size} examples but there are only "
            f"{count}; lower --batch_size or add images"
        )
    return count // batch_size


def _drawn(faces: Faces) -> int:
    """How many examples an epoch of training takes."""
    return sum(stratum.quota for stratum in faces.strata) or len(faces)


def _fetch(faces: Faces, order, weights=None) -> tf.data.Dataset:
    """Turns batches of example numbers into batches of images and labels.

    Where there are weights, `[n]`, they are the third of each batch.
    """
    labels = {
        name: tf.constant(values)
        for name, values in {**faces.examples.labels, **faces.soft_labels}.items()
    }

    # Or TensorFlow would translate the reading of files, too, down to the last call, as
    # if it were to become part of a graph: 200 us a picture under Python's lock.
    @tf.autograph.experimental.do_not_convert
    def fetch(numbers):
        found = {name: tf.gather(values, numbers) for name, values in labels.items()}
        if weights is None:
            return _take(faces, numbers), found
        return _take(faces, numbers), found, tf.gather(weights, numbers)

    dataset = order.map(fetch, num_parallel_calls=_READERS)
    options = tf.data.Options()
    options.deterministic = True
    # Left to itself, tf.data read one batch at a time for whole epochs.
    options.autotune.enabled = False
    # Every worker of several reads all files; they divide the examples.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return dataset.with_options(options).prefetch(_AHEAD)


def _take(faces: Faces, numbers: tf.Tensor) -> tf.Tensor:
    size = faces.image_size
    if faces.images is None:
        read_into = _reader(faces.examples)

    def read(rows):
        images = _aligned((len(rows), size, size, 3))
        if faces.images is None:
            for image, row in zip(images, rows, strict=True):
                read_into(image, row)
        else:
            # In numpy, not tf.gather: a mapped file stays a file. "clip", because the
            # other modes write to a copy first; no row is out of range.
            np.take(faces.images, rows, axis=0, out=images, mode="clip")
        return images

    # A batch at a time: an operation of TensorFlow costs more than a row, and fifty
    # of them, as decoding takes, more than to decode a face.
    images = tf.numpy_function(read, [numbers], tf.uint8, stateful=False)
    return tf.ensure_shape(images, [numbers.shape[0], size, size, 3])


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array that TensorFlow takes as it is.

    It copies, under Python's lock, what does not begin at a multiple of 64 bytes.
    """
    count, boundary = math.prod(shape), 64
    memory = np.empty(count + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    return memory[start : start + count].reshape(shape)


def _reader(examples: Examples) -> Callable[[np.ndarray, int], None]:
    """A function that writes an example's pixels into uint8 `[size, size, 3]`.

    It raises `formats.PictureError` on what is not a whole picture.
    """
    # Not above: a run whose images are decoded already needs no compiler, which takes
    # half a second and 120 MB.
    from hydranet_tf.data import compiled_resize

    def read_into(image: np.ndarray, number: int) -> None:
        found = decoding.decode(examples.read(int(number)))
        compiled_resize.resize(decoding.square(found), image)

    return read_into


def _decode_all(
    examples: Examples, image_size: int, images: np.ndarray | None
) -> list[Skipped]:
    """Decodes every example into `images`; returns those that fail."""
    read_into = _reader(examples)

    def decode(start: int) -> list[Skipped]:
        bad = []
        # Read to be looked at, and thrown away.
        image = np.empty((image_size, image_size, 3), np.uint8)
        for number in range(start, min(start + _PORTION, len(examples))):
            if images is not None:
                image = images[number]
            try:
                read_into(image, number)
            except (OSError, tf.errors.OpError, formats.PictureError) as error:
                message = getattr(error, "message", str(error))
                reason = " ".join(message.split())
                bad.append(Skipped(str(examples.ids[number]), reason))
        return bad

    starts = range(0, len(examples), _PORTION)
    with (
        concurrent.futures.ThreadPoolExecutor(_READERS) as threads,
        tqdm(total=len(examples), desc="decoding", unit="img", disable=None) as bar,
    ):
        found = []
        for start, bad in zip(starts, threads.map(decode, starts), strict=True):
            found += bad
            bar.update(min(_PORTION, len(examples) - start))
    return found


def _without_bad(examples, image_size, images, bad, max_bad_images) -> Faces:
    for skipped in bad:
        logging.warning("left out %s: %s", skipped.id, skipped.reason)
    if len(bad) > max_bad_images:
        some = "\n".join(f"  {s.id}: {s.reason}" for s in bad[:5])
        raise BadImagesError(
            f"{len(bad)} of {len(examples)} images could not be decoded; at "
            f"most {max_bad_images} may be left out (--max_bad_images). The "
            f"first of them:\n{some}"
        )
    if bad:
        bad_ids = {skipped.id for skipped in bad}
        good = np.flatnonzero([i not in bad_ids for i in examples.ids])
        examples = examples.select(good)
        images = None if images is None else images[good]
    return Faces(examples, image_size, images, tuple(bad))


def _cached_file(examples: Examples, image_size: int, folder: Path) -> Path:
    return folder / f"{examples.digest()[:16]}-{image_size}px.npy"


def _read_cache(
    found: Path, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[Skipped]]:
    try:
        rows = json.loads(found.with_suffix(".json").read_text())
        images = np.load(found, mmap_mode="r", allow_pickle=False)
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"it holds {images.dtype} of shape {images.shape}")
        return images, [Skipped(**row) for row in rows]
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise DamagedCacheError(
            f"the decoded images in {found} cannot be read ({error}). Delete that "
            "file and the .json beside it; they are made again"
        ) from error
