"""Trains on one GPU for a given number of minutes, without TensorFlow.

    KERAS_BACKEND=jax python tools/gpu.py \\
        --images=utkface-1-of-2.tar,utkface-2-of-2.tar \\
        --split_lists=datasets/utkface/splits --minutes=10 --output=out
    python tools/gpu.py --collect=out --preset=presets/utkface_resnet34

The first command needs JAX for the GPU (or KERAS_BACKEND=torch and PyTorch), and Keras,
NumPy, OpenCV, Pillow, simplejpeg and absl. For a machine without a connection, fetch
them before:

    pip download --no-deps --dest=wheels keras absl-py numpy opencv-python-headless \\
        pillow simplejpeg h5py ml_dtypes namex optree rich packaging typing_extensions
    pip install --no-index --find-links=wheels --no-deps wheels/*.whl

It prints images a second, the share of the GPU's peak and how long the GPU waited for
images. Weights are written as float16, in pieces that travel well; the second command
makes a preset of them.
"""

import concurrent.futures
import json
import math
import os
import re
import sys
import tarfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
# The repository, whether installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from absl import app, flags

from hydranet_tf import losses, tasks
from hydranet_tf.backbones import BACKBONES
from hydranet_tf.data import decoding, file_names
from hydranet_tf.heads import task_metrics
from hydranet_tf.model import HydraNet

_IMAGES = flags.DEFINE_list(
    "images", [], "Archives (.tar) or folders of UTKFace-named images."
)
_SPLIT_LISTS = flags.DEFINE_string(
    "split_lists", "datasets/utkface/splits", "Folder of train.txt and validation.txt."
)
_OUTPUT = flags.DEFINE_string("output", "", "Folder for weights and figures.")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Minutes to train.", lower_bound=0.01)
_BACKBONE = flags.DEFINE_enum("backbone", "resnet34", list(BACKBONES), "The network.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 128, "Side of the images in pixels.")
_BATCH = flags.DEFINE_integer("batch_size", 256, "Images in a batch.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Highest learning rate of AdamW.")
_PEAK = flags.DEFINE_float(
    "peak_tflops",
    989.0,
    "What the GPU could do in bfloat16, in 10^12 operations a second; 989 is what "
    "NVIDIA states for the H100 (SXM), dense.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "mixed_bfloat16",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "Precision of the backbone.",
)
_PIECE = flags.DEFINE_float("piece_mib", 16.0, "Largest size of a piece in MiB.")
_COLLECT = flags.DEFINE_string("collect", "", "Folder of pieces to make a preset of.")
_PRESET = flags.DEFINE_string("preset", "", "The preset to write; must not exist.")

# Of the minutes, for the learning rate to rise in.
_WARMUP = 0.05
_WEIGHT_DECAY = 0.05


def read_images(places, names, size):
    """Decodes the named images from archives and folders.

    Args:
        places: archives and folders.
        names: file names without folders.
        size: side in pixels.

    Returns:
        uint8 `[n, size, size, 3]` and the indices into `names` of what was found.
    """
    wanted = {name: number for number, name in enumerate(names)}
    images, found = [], []

    def decode(number, encoded):
        image = decoding.resize(decoding.square(decoding.decode(encoded)), size)
        return number, image

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        jobs = [
            threads.submit(decode, wanted[name], encoded)
            for place in places
            for name, encoded in _files(Path(place))
            if name in wanted
        ]
        for job in jobs:
            number, image = job.result()
            found.append(number)
            images.append(image)
    if not images:
        raise SystemExit(f"none of {len(names)} images is in {', '.join(places)}")
    return np.stack(images), np.array(found)


def _files(place):
    """Names and bytes of the files in an archive or a folder."""
    if place.is_dir():
        for path in sorted(place.rglob("*.jp*g")):
            yield path.name, path.read_bytes()
        return
    with tarfile.open(place) as archive:
        for member in archive:
            if member.isfile():
                yield Path(member.name).name, archive.extractfile(member).read()


def load(split):
    """Images and labels of one part of the split."""
    names = file_names.read_split_lists(_SPLIT_LISTS.value)[split]
    corrections = None
    if split == "train":
        corrections = file_names.read_corrections(_SPLIT_LISTS.value)
    labels, _ = file_names.label_names(names, corrections)
    images, found = read_images(_IMAGES.value, list(labels), _IMAGE_SIZE.value)
    rows = list(labels.values())
    values = {
        task.name: np.array(
            [rows[i][task.name] for i in found],
            "int32" if task.classes else "float32",
        )
        for task in tasks.TASKS
    }
    return images, values


class Batches(keras.utils.PyDataset):
    """Full batches of images in memory, in another order each epoch."""

    def __init__(self, images, labels, batch_size, seed):
        super().__init__()
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.images) // self.batch_size

    def __getitem__(self, number):
        start = number * self.batch_size
        rows = self.order[start : start + self.batch_size]
        return self.images[rows], {k: v[rows] for k, v in self.labels.items()}

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.images))


class Budget(keras.callbacks.Callback):
    """Ends training when the minutes are over, and tells how they went.

    The learning rate follows a cosine over the time: how many steps there will be is
    not known. The first epoch, in which the step is compiled, counts for no figure.
    """

    def __init__(self, seconds, rate, images, flops):
        super().__init__()
        self.seconds, self.rate, self.images, self.flops = seconds, rate, images, flops
        self.start = time.perf_counter()
        self.epochs = self.trained = self.waited = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        now = time.perf_counter()
        done = min((now - self.start) / self.seconds, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        # The first epoch warms up, too.
        self.model.optimizer.learning_rate = self.rate * min(
            cosine, max(done / _WARMUP, 0.1)
        )
        self.began = self.ended = now
        self.wait = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.wait += time.perf_counter() - self.ended

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        # Scores are numbers only once the GPU has computed them.
        scores = {name: float(value) for name, value in (logs or {}).items()}
        now = time.perf_counter()
        took = now - self.began
        if epoch:
            self.epochs += 1
            self.trained += took
            self.waited += self.wait
        print(
            f"epoch {epoch + 1}: {took:.1f} s, {self.images / took:.0f} images/s, "
            + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()),
            flush=True,
        )
        # Never after the first: it has no figures, and its length says nothing.
        if epoch and now - self.start + took > self.seconds:
            self.model.stop_training = True

    def figures(self):
        """Images a second, share of the peak and share of the time without images."""
        if not self.epochs:
            return {}
        speed = self.images * self.epochs / self.trained
        return {
            "images_per_second": speed,
            "share_of_peak": speed * self.flops / (_PEAK.value * 1e12),
            "input_wait": self.waited / self.trained,
        }


def training_flops(network):
    """Operations for one image in one step: products and sums count as two.

    Forward once, and twice as much backward; convolutions and dense layers alone.
    """
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2D):
            height, width = layer.output.shape[1:3]
            kernel = math.prod(layer.kernel.shape)
            total += 2 * kernel * height * width
        elif isinstance(layer, keras.layers.Dense):
            total += 2 * math.prod(layer.kernel.shape)
    return 3 * total


def build(labels):
    """A new network; its age by a distribution, its loss weights learned."""
    asked = tasks.with_head(tasks.TASKS, tasks.DISTRIBUTION)
    weighting = losses.UncertaintyWeights(
        [task.kind for task in asked],
        [losses.constant_prediction_loss(task, labels[task.name]) for task in asked],
        rate=10.0,
    )
    return HydraNet(
        _BACKBONE.value,
        _IMAGE_SIZE.value,
        augmentation="strong",
        weighting=weighting,
        tasks=asked,
    )


def write_pieces(folder, arrays, largest):
    """Writes float16 arrays into `weights-N.npz`, none larger than `largest` bytes."""
    pieces, size = [{}], 0
    for name, array in arrays.items():
        array = np.asarray(array, "float16")
        # A header of 128 bytes and the name, twice, stand beside the numbers.
        needed = array.nbytes + 512 + 2 * len(name)
        if needed > largest:
            raise SystemExit(f"{name} alone takes {needed} bytes, above --piece_mib")
        if size + needed > largest:
            pieces.append({})
            size = 0
        pieces[-1][name] = array
        size += needed
    for number, piece in enumerate(pieces):
        np.savez(folder / f"weights-{number}.npz", **piece)
    return len(pieces)


def train():
    """Trains, and writes weights, config and figures."""
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_dtype_policy(_PRECISION.value)
    started = time.perf_counter()
    images, labels = load("train")
    held_out = load("validation")
    print(
        f"{len(images)} faces to train, {len(held_out[0])} to validate, read in "
        f"{time.perf_counter() - started:.0f} s; {keras.backend.backend()} backend",
        flush=True,
    )
    batch = min(_BATCH.value, len(images))
    model = build(labels)
    optimizer = keras.optimizers.AdamW(_RATE.value, weight_decay=_WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.name != "kernel"]
    )
    model.compile(optimizer, metrics=task_metrics(model.tasks), jit_compile="auto")
    batches = Batches(images, labels, batch, seed=0)
    flops = training_flops(model.network)
    budget = Budget(60 * _MINUTES.value, _RATE.value, len(batches) * batch, flops)
    model.fit(batches, epochs=10**6, verbose=0, callbacks=[budget])
    scores = model.evaluate(*held_out, batch_size=batch, verbose=0, return_dict=True)
    scores = {f"val_{name}": float(value) for name, value in scores.items()}
    figures = {"gflop_per_image": flops / 1e9, **budget.figures(), **scores}
    arrays = {
        v.path: keras.ops.convert_to_numpy(keras.ops.cast(v, "float32"))
        for v in model.network.variables
    }
    count = write_pieces(output, arrays, int(_PIECE.value * 2**20))
    config = json.dumps(model.get_config(), indent=2)
    (output / "network.json").write_text(config + "\n", encoding="utf-8")
    text = json.dumps(figures, indent=2)
    (output / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n{count} pieces of weights in {output}", flush=True)


def collect():
    """Makes a preset of what `train` wrote."""
    folder = Path(_COLLECT.value)
    model = HydraNet.from_config(json.loads((folder / "network.json").read_text()))
    arrays = {}
    number = re.compile(r"weights-(\d+)\.npz")
    pieces = [path for path in folder.iterdir() if number.fullmatch(path.name)]
    for path in pieces:
        with np.load(path, allow_pickle=False) as piece:
            arrays.update(piece)
    variables = {v.path: v for v in model.network.variables}
    if arrays.keys() != variables.keys():
        missing = sorted(variables.keys() ^ arrays.keys())
        raise SystemExit(
            f"{folder} has {len(pieces)} pieces, which do not make the network of "
            f"network.json: {len(missing)} arrays differ, the first {missing[0]}"
        )
    for path, array in arrays.items():
        variables[path].assign(array)
    figures = json.loads((folder / "figures.json").read_text())
    model.save_to_preset(_PRESET.value, {"trained_by": "tools/gpu.py", **figures})
    print(f"{_PRESET.value}: a preset of {len(arrays)} arrays")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if _COLLECT.value and _PRESET.value:
        collect()
    elif _IMAGES.value and _OUTPUT.value:
        train()
    else:
        raise app.UsageError(
            "expected --images and --output to train, or --collect and --preset"
        )


if __name__ == "__main__":
    app.run(main)
