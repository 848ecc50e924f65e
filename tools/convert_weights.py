"""Converts published weights of a backbone for train.py --backbone_weights.

    python tools/convert_weights.py --backbone=resnet34 \\
        --source=resnet34-b627a593.pth --output=resnet34.npz

Takes state dicts of torchvision and timm (.pth, .safetensors), files of Keras
Applications (.h5), dlib's face recogniser (.dat) and OpenCV's SFace (.onnx);
docs/backbones.md says which and from where. PyTorch is not needed, and nothing in the
file is run.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags, logging

# The repository is not an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_BACKBONE = flags.DEFINE_string(
    "backbone", None, "Whose weights they are.", required=True
)
_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "The published file, or imagenet or faces to fetch it.",
    required=True,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The .npz file to write; replaced if it is there.", required=True
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.backbones import pretrained

    try:
        weights = pretrained.convert(_BACKBONE.value, _SOURCE.value)
        pretrained.save(weights, _OUTPUT.value)
    except pretrained.WeightsError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    numbers = sum(array.size for array in weights.arrays.values())
    print(f"{_OUTPUT.value}: {numbers:,} numbers of {_BACKBONE.value}")


if __name__ == "__main__":
    app.run(main)
