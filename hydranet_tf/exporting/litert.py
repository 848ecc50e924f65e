"""The LiteRT (.tflite) files for phones and browsers.

One signature, `serving_default`: `images` `[1, size, size, 3]`, RGB 0..255,
in; `age` `[1]` in years, `gender` `[1, 2]` and `race` `[1, 5]` probabilities
out, by name. The batch is fixed to one because delegates (GPU, NNAPI, Core ML)
want static shapes. The variants:

- `float32`: what was trained.
- `float16`: weights in 16 bits, half the size; arithmetic in float32.
- `dynamic`: weights in 8 bits, activations quantised as they come.
- `int8`: weights and activations in 8 bits; takes the uint8 pixels of a camera
  as they are and gives float32. Its heads, a thousandth of the arithmetic,
  stay in float32: in 256 steps an age could not exceed the oldest face of the
  calibration.
- `integer`: heads and predictions too are 8 bits, for accelerators that have no
  floating point; `scale` and `zero_point` of the description turn the predictions
  into years and probabilities.

The first three take float32 pixels, because delegates run the network from its
first layer then; a camera image needs one cast and no arithmetic.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import util as lite_util
from tensorflow.lite.tools import flatbuffer_utils

from hydranet_tf import notices
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference import export_metadata

SIGNATURE = "serving_default"

FLOAT32, FLOAT16, DYNAMIC = "float32", "float16", "dynamic"
INT8, INTEGER = "int8", "integer"
VARIANTS = (FLOAT32, FLOAT16, DYNAMIC, INT8, INTEGER)
IN_8_BITS = (DYNAMIC, INT8, INTEGER)
# Those whose ranges of activations come from training faces.
NEED_REPRESENTATIVE = (INT8, INTEGER)

_BUILTIN_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if isinstance(number, int)
}


class UnsupportedOperators(HydraNetError, RuntimeError):
    """The network needs operators that a plain LiteRT runtime lacks."""


def file_name(stem: str, variant: str) -> str:
    """STEM.tflite for float32, STEM_VARIANT.tflite for the others."""
    return f"{stem}.tflite" if variant == FLOAT32 else f"{stem}_{variant}.tflite"


def write(
    inference_model: keras.Model,
    description: Mapping[str, Any],
    path: Path,
    variant: str = FLOAT32,
    *,
    representative_faces: np.ndarray | None = None,
    dynamic_batch: bool = False,
) -> None:
    """Writes the network as a .tflite file that explains itself.

    Args:
        inference_model, variant, representative_faces, dynamic_batch: see `convert`.
        description: goes, with what `export_metadata` and this module know
            about the file, into the file and into NAME.json beside it.
        path: of the .tflite file.

    Raises:
        UnsupportedOperators: see `convert`.
    """
    content = convert(
        inference_model,
        variant,
        representative_faces=representative_faces,
        dynamic_batch=dynamic_batch,
    )
    path.write_bytes(content)
    description = {**description, **_about(content, variant)}
    for task in description.get("tasks", ()):
        if task["classes"]:
            file = export_metadata.labels_file(task["name"])
            description["outputs"][task["name"]]["labels"] = file
    export_metadata.attach_to_litert(path, description)


def convert(
    inference_model: keras.Model,
    variant: str = FLOAT32,
    *,
    representative_faces: np.ndarray | None = None,
    dynamic_batch: bool = False,
) -> bytes:
    """Converts the network to a .tflite file of builtin operators.

    Args:
        inference_model: `HydraNet.inference_model()` under the TensorFlow backend.
        variant: of `VARIANTS`.
        representative_faces: for the variants of `NEED_REPRESENTATIVE`: uint8 `[n,
            size, size, 3]`, n at least 1; training faces that show every range of
            activations.
        dynamic_batch: any number of images at once, where the default is one.

    Returns:
        The content of the file.

    Raises:
        UnsupportedOperators: naming the Flex and custom operators it would
            need, which apps have to link on their own.
    """
    size = inference_model.input_shape[1]
    module = tf.Module()
    module.weights = [variable.value for variable in inference_model.variables]
    batch = None if dynamic_batch else 1

    @tf.function(
        input_signature=[
            tf.TensorSpec([batch, size, size, 3], tf.float32, name="images")
        ]
    )
    def predict(images):
        return inference_model(images, training=False)

    # Names of inputs and outputs reach the file only by way of a SavedModel.
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        tf.saved_model.save(module, scratch, signatures={SIGNATURE: predict})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=[SIGNATURE]
        )
        _configure(converter, variant, representative_faces)
        # Foreign operators pass here for the check below to name them; the
        # converter's own refusal is pages of MLIR.
        converter.allow_custom_ops = True
        if variant == INT8:
            content = _convert_with_float_heads(converter)
        else:
            content = converter.convert()
    foreign = foreign_operators(content)
    if foreign:
        raise UnsupportedOperators(
            "LiteRT files carry builtin operators alone; this network also needs "
            f"{', '.join(foreign)}. Replace the layers that use them"
        )
    return bytes(content)


def _configure(
    converter, variant: str, representative_faces: np.ndarray | None
) -> None:
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if variant == FLOAT32:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if variant in NEED_REPRESENTATIVE:
        images = _of_full_range(representative_faces).astype(np.float32)
        converter.representative_dataset = lambda: (
            {"images": image[np.newaxis]} for image in images
        )
    if variant == INTEGER:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8


def _convert_with_float_heads(converter) -> bytes:
    """Converts all but the heads to 8 bits, with uint8 pixels as input.

    The converter quantises a part of a network only by way of its debugger,
    and that leaves the input in float32.
    """
    options = tf.lite.experimental.QuantizationDebugOptions()
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=options,
    )
    operators_of_heads, nodes = _heads(debugger.calibrated_model)
    options.denylisted_ops, options.denylisted_nodes = operators_of_heads, nodes
    content = _without_round_trips(debugger.get_nondebug_quantized_model())
    return lite_util.modify_model_io_type(content, tf.uint8, tf.float32)


def _heads(content: bytes) -> tuple[list[str], list[str]]:
    """What heads compute: the first dense layers, and all that follows.

    A backbone ends in the mean over its last features; it has no dense layer.

    Returns:
        Names of operators that heads alone have, for the quantiser asks of some by
        their kind; and of all that they compute.
    """
    model = schema.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    nodes: dict[int, str] = {}
    kinds: dict[bool, set[str]] = {True: set(), False: set()}
    # Operators stand in an order in which they can run.
    for step in map(graph.Operators, range(graph.OperatorsLength())):
        kind = _BUILTIN_NAMES[model.OperatorCodes(step.OpcodeIndex()).BuiltinCode()]
        inputs = step.InputsAsNumpy().tolist()
        of_head = kind == "FULLY_CONNECTED" or not nodes.keys().isdisjoint(inputs)
        kinds[of_head].add(kind)
        if of_head:
            for output in step.OutputsAsNumpy().tolist():
                nodes[output] = graph.Tensors(output).Name().decode()
    return sorted(kinds[True] - kinds[False]), list(nodes.values())


def _without_round_trips(content: bytes) -> bytes:
    """Takes out what goes to 8 bits and straight back.

    The quantiser gives a softmax a fixed grid of 1/256, whatever it is told of heads.
    The 121 probabilities of an age would come back as multiples of that, most as 0.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]

    def of_kind(operator):
        return [
            step
            for step in graph.operators
            if model.operatorCodes[step.opcodeIndex].builtinCode == operator
        ]

    kinds = schema.BuiltinOperator
    origins = {s.outputs[0]: s.inputs[0] for s in of_kind(kinds.QUANTIZE)}
    trips = [s for s in of_kind(kinds.DEQUANTIZE) if s.inputs[0] in origins]
    instead = {s.outputs[0]: origins[s.inputs[0]] for s in trips}
    needless = {s.inputs[0] for s in trips}
    for step in graph.operators:
        step.inputs = [instead.get(tensor, tensor) for tensor in step.inputs]
    left = [s for s in graph.operators if not any(s is trip for trip in trips)]
    needless -= {tensor for step in left for tensor in step.inputs}
    graph.operators = [s for s in left if s.outputs[0] not in needless]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _of_full_range(images: np.ndarray) -> np.ndarray:
    """Makes sure that calibration sees black and white.

    The range of pixels becomes the scale of the input: with 0 and 255 in it,
    it is exactly 1 and a uint8 pixel means itself. Two corner pixels of one
    image change no activation that matters.
    """
    images = images.copy()
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


def _about(content: bytes, variant: str) -> dict[str, Any]:
    """Signature, shapes and types, as JSON."""
    with notices.held_back():
        signature = Interpreter(model_content=content).get_signature_runner(SIGNATURE)

    def tensors(details: Mapping[str, Mapping]) -> dict[str, dict[str, Any]]:
        found = {}
        for name, tensor in sorted(details.items()):
            found[name] = {
                # -1 where any number will do.
                "shape": tensor["shape_signature"].tolist(),
                "dtype": np.dtype(tensor["dtype"]).name,
            }
            scale, zero_point = tensor["quantization"]
            if scale:
                found[name] |= {"scale": scale, "zero_point": zero_point}
        return found

    return {
        "variant": variant,
        "signature": SIGNATURE,
        "inputs": tensors(signature.get_input_details()),
        "outputs": tensors(signature.get_output_details()),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the converter says about itself and its interpreter."""
    with warnings.catch_warnings(), notices.held_back():
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
        yield


def operators(content: bytes) -> list[str]:
    """Names of the operators in a .tflite file, in the file's order.

    Builtin ones in capitals (`CONV_2D`), others by their own name (a Flex
    operator as `FlexAsString`).
    """
    model = schema.Model.GetRootAs(content)
    codes = (model.OperatorCodes(i) for i in range(model.OperatorCodesLength()))
    return [
        code.CustomCode().decode()
        if code.BuiltinCode() == schema.BuiltinOperator.CUSTOM
        else _BUILTIN_NAMES[code.BuiltinCode()]
        for code in codes
    ]


def foreign_operators(content: bytes) -> list[str]:
    """The operators of a .tflite file that are not builtin."""
    builtin = set(_BUILTIN_NAMES.values())
    return [name for name in operators(content) if name not in builtin]
