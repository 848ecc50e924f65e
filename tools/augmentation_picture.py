"""Draws docs/images/augmentation.png: one face as training sees it, 24 times.

    python tools/augmentation_picture.py --output=docs/images/augmentation.png

The face is that of astronaut Eileen Collins, a photograph of NASA in the public domain
that scikit-image carries.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The repository, whether installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import skimage.data
from absl import app, flags
from PIL import Image

from hydranet_tf.augmentation import STRENGTHS, Augmentation
from hydranet_tf.capture import Capture

_OUTPUT = flags.DEFINE_string("output", None, "The PNG file to write.", required=True)
_STRENGTH = flags.DEFINE_enum("strength", "strong", STRENGTHS[1:], "See train.py.")
_ROWS, _COLUMNS, _SIDE = 3, 8, 128
# Left, top, right, bottom of her face, as wide around it as UTKFace's crops are.
_FACE = (140, 20, 310, 190)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    face = Image.fromarray(skimage.data.astronaut()).crop(_FACE)
    face = np.asarray(face.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    images = np.repeat(face[np.newaxis].astype("float32"), _ROWS * _COLUMNS, axis=0)
    for kind in (Augmentation, Capture):
        images = kind.of_strength(_STRENGTH.value, seed=7)(images, training=True)
    images = np.asarray(images).round().astype("uint8")
    rows = images.reshape(_ROWS, _COLUMNS, _SIDE, _SIDE, 3)
    picture = rows.transpose(0, 2, 1, 3, 4).reshape(_ROWS * _SIDE, -1, 3)
    Image.fromarray(picture).save(_OUTPUT.value, optimize=True)


if __name__ == "__main__":
    app.run(main)
