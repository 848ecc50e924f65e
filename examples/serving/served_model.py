"""The newest version of a SavedModel, with predictions to wrong input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

DEFAULT_SIGNATURE = "serving_default"


class RequestError(ValueError):
    """A request that cannot be answered; the message says what to change."""


class ServedModel:
    """A version of a SavedModel under its name.

    Attributes:
        name: of the folder, and of the model in requests.
        version: the highest number among the folder's own.
    """

    def __init__(self, folder: Path):
        """Loads NAME/N for the highest N below the folder NAME."""
        if not folder.is_dir():
            raise RequestError(f"{folder} is not a folder")
        versions = [int(c.name) for c in folder.iterdir() if c.name.isdecimal()]
        if not versions:
            raise RequestError(f"expected folders {folder}/1, {folder}/2, ...")
        self.name = folder.resolve().name
        self.version = max(versions)
        # The functions of a SavedModel live as long as it does.
        self._model = tf.saved_model.load(str(folder / str(self.version)))

    def input_of(self, signature: str) -> tuple[str, tf.TensorSpec]:
        """The name of a signature's one input, and what it takes."""
        known = self._model.signatures
        if signature not in known:
            raise RequestError(
                f"no signature {signature!r}; this model has {', '.join(known)}"
            )
        _, inputs = known[signature].structured_input_signature
        ((name, spec),) = inputs.items()
        return name, spec

    def predict(self, signature: str, values: Any) -> dict[str, np.ndarray]:
        """Predicts one batch, by name."""
        name, spec = self.input_of(signature)
        # TensorFlow turns 300 into 44 without a word where levels end at 255.
        if spec.dtype == tf.uint8 and not isinstance(values, tf.Tensor):
            values = np.asarray(_rectangular(values))
            if values.dtype.kind not in "ui" or ((values < 0) | (values > 255)).any():
                raise RequestError(f"{name}: expected whole numbers from 0 to 255")
            values = values.astype(np.uint8)
        try:
            batch = tf.convert_to_tensor(values, spec.dtype)
        except (TypeError, ValueError) as error:
            raise RequestError(f"{name}: expected {spec.dtype.name} values") from error
        if not spec.shape.is_compatible_with(batch.shape) or batch.dtype != spec.dtype:
            raise RequestError(
                f"{name}: expected {spec.dtype.name} {spec.shape}, "
                f"got {batch.dtype.name} {batch.shape}"
            )
        predictions = self._model.signatures[signature](**{name: batch})
        return {name: values.numpy() for name, values in predictions.items()}


def _rectangular(values: Any) -> np.ndarray:
    try:
        return np.array(values)
    except ValueError as error:
        raise RequestError("the images differ in their shapes") from error
