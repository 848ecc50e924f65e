"""Predictions from anything that was trained or exported here.

`load` takes a workdir, a SavedModel folder, a preset, a .tflite or an .onnx file and
gives the same `Runtime`: pixels in, predictions by task name out. A .tflite file needs
neither TensorFlow nor Keras to be installed beside LiteRT's runtime.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hydranet_tf import errors, notices
from hydranet_tf import tasks as tasks_lib
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference import export_metadata, loading
from hydranet_tf.inference.loading import LoadError
from hydranet_tf.tasks import Task

if TYPE_CHECKING:
    from hydranet_tf.model import HydraNet

# Large enough to keep the cores busy, small enough for 200 pixel images in a
# gigabyte.
_BATCH_SIZE = 32

_KINDS = (
    "a workdir of train.py (with config.json and checkpoints/), or of export.py a "
    "SavedModel folder (with saved_model.pb, or with its versions 1, 2, ...), a "
    "preset (with metadata.json), a .tflite or an .onnx file"
)

# What runs an .onnx file.
ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
# The first that is installed is taken where the user names none: on networks of this
# kind they differ by less than a run differs from the next, and the first needs less
# than half of the memory.
ONNX_ENGINES = (ONNX_RUNTIME, OPENVINO)
# What runs a file; see `load`.
AUTO, LITERT = "auto", "litert"
ENGINES = (AUTO, LITERT, *ONNX_ENGINES)
_EXTRAS = {ONNX_RUNTIME: "onnx", OPENVINO: "openvino"}

_NO_FEATURES = (
    "expected a .tflite file, a preset or a workdir for embeddings: SavedModels, .onnx "
    "files and networks without dense layers give predictions alone"
)

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A network that is ready to predict; may be called from several threads.

    Attributes:
        tasks: what it predicts, with class names in order.
        image_size: side of its images in pixels.
        batch_size: images that `run` takes at once.
        run: uint8 images `[batch_size or 1, size, size, 3]` to
            predictions.
        run_features: the same images to the pooled features before the heads, float32
            `[batch, features]`; None where the file does not give them.
        any_batch: `run` takes any number of images up to `batch_size`.
    """

    tasks: tuple[Task, ...]
    image_size: int
    batch_size: int
    run: Run
    run_features: Callable[[np.ndarray], np.ndarray] | None = None
    any_batch: bool = False

    def predictions(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts every task for every image.

        Args:
            images: uint8 `[n, size, size, 3]`, RGB 0..255, cut and resized as
                `decoding.decode_and_resize` does; n may be 0.

        Returns:
            By the names of `task.outputs`, float32: `[n]` in the task's unit,
            or probabilities `[n, classes]`.

        Raises:
            ValueError: if the images have another type or shape.
        """
        images = self._checked(images)
        parts = [
            {name: values[:n] for name, values in self.run(padded).items()}
            for padded, n in self._batches(images)
        ]
        return {
            name: np.concatenate([_empty(task), *(part[name] for part in parts)])
            for task in self.tasks
            for name in task.outputs
        }

    def features(self, images: np.ndarray) -> np.ndarray:
        """Describes every image by what all heads read: an embedding.

        Args:
            images: as for the predictions.

        Returns:
            float32 `[n, features]`, not normalised.

        Raises:
            ValueError: if the file gives none, or the images have another shape.
        """
        images = self._checked(images)
        if self.run_features is None:
            raise ValueError(_NO_FEATURES)
        # Of no image, too, so that the number of features is known.
        batches = self._batches(images, least=1)
        return np.concatenate([self.run_features(padded)[:n] for padded, n in batches])

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        expected = (self.image_size, self.image_size, 3)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"expected uint8 images of the shape [n, {self.image_size}, "
                f"{self.image_size}, 3], RGB 0..255; got {images.dtype} of the "
                f"shape {list(images.shape)}"
            )
        return images

    def _batches(
        self, images: np.ndarray, least: int = 0
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Batches at one of two sizes, so that nothing compiles again, and their count.

        A single image, as from a camera, is not made to wait for a full batch.
        """
        for start in range(0, max(least, len(images)), self.batch_size):
            some = images[start : start + self.batch_size]
            n = len(some)
            missing = 0 if n == 1 or self.any_batch else self.batch_size - n
            yield np.pad(some, [(0, missing), (0, 0), (0, 0), (0, 0)]), n


def load(
    path: str | os.PathLike | None = None, engine: str = AUTO, threads: int = 1
) -> Runtime:
    """Loads a workdir, a SavedModel, a preset, a .tflite or an .onnx file.

    Args:
        path: a workdir (its best checkpoint is taken), a SavedModel or the
            folder that holds its versions (the highest is taken), a preset, or
            a .tflite file, whose description is NAME.json beside it or, where
            that is not there, within it. Where nothing of that name is there, the
            name of a network that comes with the package, of which the .tflite file
            is taken; None is the released one.
        engine: what runs a file, of `ENGINES`: LiteRT runs a .tflite file, ONNX Runtime
            or OpenVINO an .onnx file. `AUTO` takes the one that fits and is installed.
        threads: that one call takes of such an engine; TensorFlow has its own ways.

    Raises:
        LoadError: if it is not one of these, is damaged, or the engine does not fit.
    """
    if engine not in ENGINES:
        raise LoadError(f"expected a runtime out of {', '.join(ENGINES)}; got {engine}")
    path = Path(loading.DEFAULT if path is None else path).expanduser()
    if not path.exists():
        path = loading.released_litert(str(path)) or path
    if path.is_file() and path.suffix == ".tflite":
        _check_engine(path, engine, (LITERT,))
        return _load_litert(path, threads)
    if path.is_file() and path.suffix == ".onnx":
        _check_engine(path, engine, ONNX_ENGINES)
        return _load_onnx(path, engine, threads)
    if path.exists():
        _check_engine(path, engine, ())
    if path.is_dir():
        network = loading.load(path)
        if network:
            return from_model(network)
        folder = _saved_model_in(path)
        if folder:
            return _load_saved_model(folder)
    if not path.exists():
        found = "which does not exist"
    elif path.is_file():
        found = "another kind of file"
    else:
        names = sorted(child.name for child in path.iterdir())
        found = f"a folder with {', '.join(names[:8])}" if names else "an empty folder"
    raise LoadError(
        f"expected {_KINDS}, or the name of a network that comes with the package "
        f"({', '.join(loading.released_names())}); got {path}, {found}"
    )


def _check_engine(path: Path, engine: str, fitting: Sequence[str]) -> None:
    if engine != AUTO and engine not in fitting:
        raise LoadError(
            f"{engine} does not run {path}: {' or '.join(fitting) or 'TensorFlow'} "
            + (
                f"{' or '.join(fitting)} does"
                if fitting
                else "TensorFlow or Keras does"
            )
            + f". Leave --runtime at {AUTO}, or export the format that it runs"
        )


def from_model(model: HydraNet) -> Runtime:
    """Wraps a Keras model in memory, under any backend."""

    network = model.inference_model()
    features = functools.cache(lambda: model.feature_extractor())
    # Keras builds the compiled function on the first call, which two threads
    # must not do at once.
    lock = threading.Lock()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with lock:
            return network.predict_on_batch(images)

    def run_features(images: np.ndarray) -> np.ndarray:
        with lock:
            return np.asarray(features().predict_on_batch(images), np.float32)

    tasks, size = tuple(model.tasks), model.image_size
    return Runtime(tasks, size, _BATCH_SIZE, run, run_features)


def _saved_model_in(path: Path) -> Path | None:
    if (path / "saved_model.pb").is_file():
        return path
    versions = [
        child
        for child in path.iterdir()
        if child.name.isascii()
        and child.name.isdecimal()
        and (child / "saved_model.pb").is_file()
    ]
    return max(versions, key=lambda child: int(child.name), default=None)


def _load_saved_model(folder: Path) -> Runtime:
    with notices.held_back():
        import tensorflow as tf

    asset = folder / "assets" / export_metadata.TASKS_ASSET
    tasks, image_size = _read_description(asset)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises a dozen kinds here.
        raise LoadError(
            f"cannot read the SavedModel {folder}: {_first_line(error)}. It is "
            "damaged or incomplete; export it again"
        ) from error
    if export_metadata.PIXELS not in loaded.signatures:
        raise LoadError(
            f"expected a signature {export_metadata.PIXELS!r} in {folder}; it has "
            f"{sorted(loaded.signatures)}. Export it again with export.py"
        )
    outputs = loaded.signatures[export_metadata.PIXELS].structured_outputs
    _check_names(folder, tasks, outputs)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # By way of `loaded`: a signature alone does not keep the variables
        # alive that it reads.
        outputs = loaded.signatures[export_metadata.PIXELS](images=tf.constant(images))
        return {name: output.numpy() for name, output in outputs.items()}

    return Runtime(tasks, image_size, _BATCH_SIZE, run)


def _load_onnx(path: Path, engine: str, threads: int) -> Runtime:
    try:
        description, content = export_metadata.read_onnx(path)
    except export_metadata.MetadataError as error:
        raise LoadError(str(error)) from error
    tasks, image_size = _tasks_and_size(description, f"the description of {path}")
    there = installed_onnx_engines()
    if engine == AUTO and there:
        engine = there[0]
    if engine not in there:
        wanted = ONNX_ENGINES if engine == AUTO else [engine]
        raise LoadError(
            f"to run {path}, {' or '.join(wanted)} is needed and is not installed: "
            + " or ".join(errors.installation(_EXTRAS[name]) for name in wanted)
        )
    try:
        predict, names = load_onnx_engine(engine, content, threads)
    except EngineError as error:
        raise LoadError(f"{path} cannot be run by {error}. Export it again") from error
    _check_names(path, tasks, names)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return predict(images.astype(np.float32))

    return Runtime(tasks, image_size, _BATCH_SIZE, run, any_batch=True)


def _load_litert(path: Path, threads: int) -> Runtime:
    try:
        description, content = export_metadata.read_litert(path)
    except export_metadata.MetadataError as error:
        raise LoadError(str(error)) from error
    tasks, image_size = _tasks_and_size(description, f"the description of {path}")
    try:
        signature = _signature(content, threads)
    except (ValueError, RuntimeError) as error:
        raise LoadError(
            f"LiteRT cannot run {path}: {_first_line(error)}. Export it again"
        ) from error
    _check_names(path, tasks, signature.get_output_details())
    image = signature.get_input_details()["images"]

    has_static_batch = image["shape_signature"][0] == 1
    batch_size = 1 if has_static_batch else _BATCH_SIZE
    features = _litert_features(content, threads)
    return Runtime(tasks, image_size, batch_size, _runner(signature), features)


def _signature(content: bytes, threads: int) -> Any:
    with notices.held_back():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner()


def _runner(signature: Any) -> Run:
    """Calls a signature with the type of pixels that it takes."""
    dtype = signature.get_input_details()["images"]["dtype"]
    outputs = signature.get_output_details()
    # The interpreter writes predictions into its own buffers: one caller at a time.
    lock = threading.Lock()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with lock:
            found = signature(images=images.astype(dtype))
            return {
                name: _dequantized(output, outputs[name]["quantization"])
                for name, output in found.items()
            }

    return run


def _litert_features(
    content: bytes, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Describes images by a network that is cut out of the file's at the first call."""

    @functools.cache
    def trunk() -> Run | None:
        # Takes a third of a second, which predictions do without.
        from hydranet_tf.inference import litert_trunk

        cut = litert_trunk.of(content)
        return None if cut is None else _runner(_signature(cut, threads))

    lock = threading.Lock()

    def run(images: np.ndarray) -> np.ndarray:
        with lock:
            found = trunk()
        if found is None:
            raise ValueError(_NO_FEATURES)
        return found(images)[export_metadata.EMBEDDING]

    return run


def _dequantized(output: np.ndarray, quantization: tuple[float, int]) -> np.ndarray:
    """A copy in years or probabilities of what an interpreter's buffer holds."""
    scale, zero_point = quantization
    if output.dtype == np.float32:
        return np.array(output)
    return (output.astype(np.float32) - zero_point) * np.float32(scale)


def _read_description(path: Path) -> tuple[tuple[Task, ...], int]:
    """Reads tasks and image size from the JSON that came with an export."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadError(
            f"expected {path}, which names the classes and the image size and "
            "is written by export.py: copy it along, or export again"
        ) from None
    except ValueError as error:
        raise LoadError(
            f"expected {path} to hold JSON as export.py writes it; got {error}. "
            "Export again"
        ) from error
    return _tasks_and_size(description, str(path))


def _tasks_and_size(description: Any, source: str) -> tuple[tuple[Task, ...], int]:
    try:
        tasks = tasks_lib.from_json(json.dumps(description["tasks"]))
        return tasks, int(description["image_size"])
    except (ValueError, TypeError, KeyError) as error:
        raise LoadError(
            f"expected {source} to hold tasks and image_size as export.py writes "
            f"them; got {error!r}. Export again"
        ) from error


def _check_names(path: Path, tasks: tuple[Task, ...], outputs) -> None:
    expected = sorted(name for task in tasks for name in task.outputs)
    if sorted(outputs) != expected:
        raise LoadError(
            f"expected the outputs {expected} from {path}; it has "
            f"{sorted(outputs)}. Its description is from another export"
        )


def _empty(task: Task) -> np.ndarray:
    return np.zeros((0, *task.prediction_shape), np.float32)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class EngineError(HydraNetError, RuntimeError):
    """A network that an engine does not take; the message says why."""


def installed_onnx_engines() -> list[str]:
    """Those of `ONNX_ENGINES` that are there."""
    return [name for name in ONNX_ENGINES if importlib.util.find_spec(name)]


def load_onnx_engine(
    engine: str, content: bytes, threads: int
) -> tuple[Run, list[str]]:
    """Makes a network of an .onnx file ready to run.

    Args:
        engine: one of `ONNX_ENGINES`, which is installed.
        content: of an .onnx file.
        threads: that one call takes.

    Returns:
        A function from float32 images `[n, size, size, 3]` to predictions by name,
        which may be called from several threads, and the names.

    Raises:
        EngineError: if the engine does not read it.
    """
    load_it = _load_onnx_runtime if engine == ONNX_RUNTIME else _load_openvino
    try:
        return load_it(content, threads)
    except Exception as error:  # Each engine has its own dozen.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"{engine}: {reason}") from error


def _load_onnx_runtime(content: bytes, threads: int) -> tuple[Run, list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait would keep their processors busy, for no work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Warnings about the machine are not news to whoever wants an age.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    (image,) = session.get_inputs()

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        found = session.run(names, {image.name: images})
        return dict(zip(names, found, strict=True))

    return predict, names


def _load_openvino(content: bytes, threads: int) -> tuple[Run, list[str]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(content)
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            # Left to itself it computes in 16 bits where the processor can.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    names = [output.get_any_name() for output in compiled.outputs]

    def predict(images: np.ndarray) -> dict[str, np.ndarray]:
        # A request holds its buffers: each call has its own.
        found = compiled.create_infer_request().infer([images])
        return {
            name: np.array(found[output])
            for name, output in zip(names, compiled.outputs, strict=True)
        }

    return predict, names
