"""What every error of the package is, and which extra brings a missing package.

The installation without extras finds, reads and scores photographs. What goes beyond
that asks for an extra, and says so in one line instead of a traceback.
"""

from __future__ import annotations

# Packages that modules of ours import, by the extra of setup.cfg that installs them.
EXTRAS: dict[str, tuple[str, ...]] = {
    "train": (
        "etils",
        "importlib_resources",
        "keras",
        "markdown_it",
        "matplotlib",
        "numba",
        "safetensors",
        "tensorboard",
        "tensorflow",
        "tensorflow_datasets",
    ),
    "heic": ("pillow_heif",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino": ("openvino",),
    "hub": ("huggingface_hub",),
    "jax": ("jax",),
    "ray": ("ray",),
    "readers": ("pyarrow", "scipy"),
    "serve": ("fastapi", "starlette", "uvicorn"),
    "video": ("supervision", "trackers"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "tf_serving": ("grpc", "tensorflow_serving"),
}


class HydraNetError(Exception):
    """Something that the user can mend; the message says what and how.

    Each error of the package is this, and the kind of Python's that suits it:
    `except HydraNetError` catches them all, `except ValueError` still works.
    """


def installation_hint(error: ImportError) -> str | None:
    """What to install after an import failed, in one line.

    Returns:
        None where the package belongs to no extra: then it is a fault of ours or of
        the installation, and its traceback is wanted.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return (
                f"the package {package} is needed here and not installed: "
                f"{installation(extra)}"
            )
    return None


def installation(extra: str) -> str:
    """The line that installs an extra.

    In a checkout pip takes the name of the folder in the place of the project's.
    """
    return f"pip install 'hydranet_tf[{extra}]' (in a checkout: '.[{extra}]')"
