"""The LiteRT (.tflite) file for phones and browsers.

One signature, `serving_default`: `images`, float32 `[1, size, size, 3]`, RGB
0..255, in; `age` `[1]` in years, `gender` `[1, 2]` and `race` `[1, 5]`
probabilities out, by name. The batch is fixed to one because delegates (GPU,
NNAPI, Core ML) want static shapes, and the input is float32 because they run
the network from its first layer then; a uint8 camera image needs one cast
and no arithmetic. Beside NAME.tflite stands NAME.json, which says what the
columns mean and which file it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

SIGNATURE = "serving_default"

_BUILTIN_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if isinstance(number, int)
}


class UnsupportedOperators(RuntimeError):
    """The network needs operators that a plain LiteRT runtime lacks."""


def write(answers: keras.Model, description: Mapping[str, Any], path: Path) -> None:
    """Writes the network as a .tflite file with its description beside it.

    Args:
        answers: see `convert`.
        description: what goes, with the file's `sha256`, into NAME.json.
        path: of the .tflite file.

    Raises:
        UnsupportedOperators: see `convert`.
    """
    content = convert(answers)
    path.write_bytes(content)
    description = {**description, "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(description, indent=2) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")


def convert(answers: keras.Model) -> bytes:
    """Converts the network to a float32 .tflite file of builtin operators.

    Args:
        answers: `model.answer_model(...)` under the TensorFlow backend.

    Returns:
        The content of the file.

    Raises:
        UnsupportedOperators: naming the Flex and custom operators it would
            need, which apps have to link on their own.
    """
    size = answers.input_shape[1]
    module = tf.Module()
    module.weights = [variable.value for variable in answers.variables]

    @tf.function(
        input_signature=[tf.TensorSpec([1, size, size, 3], tf.float32, name="images")]
    )
    def answer(images):
        return answers(images, training=False)

    # Names of inputs and outputs reach the file only by way of a SavedModel.
    with tempfile.TemporaryDirectory() as scratch:
        tf.saved_model.save(module, scratch, signatures={SIGNATURE: answer})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=[SIGNATURE]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Foreign operators pass here for the check below to name them; the
        # converter's own refusal is pages of MLIR.
        converter.allow_custom_ops = True
        content = converter.convert()
    foreign = foreign_operators(content)
    if foreign:
        raise UnsupportedOperators(
            "LiteRT files carry builtin operators alone; this network also needs "
            f"{', '.join(foreign)}. Replace the layers that use them"
        )
    return content


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
