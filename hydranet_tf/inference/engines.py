"""What runs an .onnx file: ONNX Runtime or OpenVINO, whichever is there.

Each gives a function from float32 images `[n, size, size, 3]` to predictions by name,
which may be called from several threads, and the names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from hydranet_tf.errors import HydraNetError

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
# The first that is installed is taken where the user names none: on networks of this
# kind they differ by less than a run differs from the next, and the first needs less
# than half of the memory.
ENGINES = (ONNX_RUNTIME, OPENVINO)

Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


class EngineError(HydraNetError, RuntimeError):
    """A network that an engine does not take; the message says why."""


def installed() -> list[str]:
    """Those of `ENGINES` that are there."""
    return [name for name in ENGINES if importlib.util.find_spec(name)]


def load(engine: str, content: bytes, threads: int) -> tuple[Predict, list[str]]:
    """Gets a network ready.

    Args:
        engine: one of `ENGINES`, which is installed.
        content: of an .onnx file.
        threads: that one call takes.

    Raises:
        EngineError: if the engine does not read it.
    """
    load_it = _load_onnx_runtime if engine == ONNX_RUNTIME else _load_openvino
    try:
        return load_it(content, threads)
    except Exception as error:  # Each engine has its own dozen.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EngineError(f"{engine}: {reason}") from error


def _load_onnx_runtime(content: bytes, threads: int) -> tuple[Predict, list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait would keep their processors busy, for no work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Warnings about the machine are no news to whoever wants an age.
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


def _load_openvino(content: bytes, threads: int) -> tuple[Predict, list[str]]:
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
