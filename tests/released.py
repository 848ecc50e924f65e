"""The network that the repository carries: here alone the tests name it."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
NAME = "photo_dlib29"
PRESET = _ROOT / "hydranet_tf" / "presets" / NAME
LITERT = PRESET / "hydranet.tflite"
# How it was trained, and what it scored.
RECIPE = _ROOT / "configs" / f"{NAME}.flags"
REPORT = _ROOT / "results" / NAME / "report.json"
