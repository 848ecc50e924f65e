"""Face attribute networks in Keras: one look at a face, three predictions.

    import hydranet_tf

    for face in hydranet_tf.Predictor("hydranet.tflite")("party.jpg"):
        print(face.age, face.gender, face.race)

What stands in `__all__` is imported at its first use, so that `import hydranet_tf`
itself takes no time and imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hydranet_tf import notices

if TYPE_CHECKING:
    from hydranet_tf.evaluation.evaluate import evaluate_model as evaluate
    from hydranet_tf.exporting.export import export_run as export
    from hydranet_tf.inference.predictor import Predictor
    from hydranet_tf.inference.runtimes import load
    from hydranet_tf.model import HydraNet
    from hydranet_tf.tasks import Task
    from hydranet_tf.training.train import train

__version__ = "0.2.0"
__all__ = [
    "HydraNet",
    "Predictor",
    "Task",
    "evaluate",
    "export",
    "load",
    "train",
]

# Module and name of each. No module of the package may have one of these names:
# its import would replace the function.
_PLACES = {
    "HydraNet": ("model", "HydraNet"),
    "Predictor": ("inference.predictor", "Predictor"),
    "Task": ("tasks", "Task"),
    "evaluate": ("evaluation.evaluate", "evaluate_model"),
    "export": ("exporting.export", "export_run"),
    "load": ("inference.runtimes", "load"),
    "train": ("training.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    # It may be the first to import TensorFlow.
    with notices.held_back():
        value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    # The next use finds it without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
