"""The .onnx file, for ONNX Runtime, OpenVINO and whatever else reads ONNX.

One network: `images` `[n, size, size, 3]`, float32, RGB 0..255, in; the outputs by
name, as everywhere: `age` `[n]` in years, `gender` `[n, 2]`, `race` `[n, 5]`. n is
free. Made by Keras' exporter.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from hydranet_tf.inference import export_metadata

INPUT = "images"
# What the exporter writes with, and what the file is checked with.
PACKAGES = ("onnx", "tf2onnx", "onnxruntime")


def missing_package() -> ImportError | None:
    """Why a file cannot be made here, if it cannot."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return error
    return None


def write(
    inference_model: keras.Model, description: Mapping[str, Any], path: Path
) -> None:
    """Writes the network as an .onnx file that explains itself.

    Args:
        inference_model: images to predictions by name, float32.
        description: as in a .tflite file.
        path: of the file.
    """
    _, height, width, channels = inference_model.input_shape
    images = keras.InputSpec("float32", (None, height, width, channels), name=INPUT)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # Keras 3.15 asks NumPy for a name that it no longer has.
        warnings.simplefilter("ignore", FutureWarning)
        inference_model.export(
            path, format="onnx", verbose=False, input_signature=[images]
        )
    about = {
        **description,
        "inputs": {INPUT: {"shape": [None, height, width, channels]}},
        "outputs": {name: {} for name in inference_model.output_names},
    }
    path.write_bytes(export_metadata.attach_to_onnx(path.read_bytes(), about))
