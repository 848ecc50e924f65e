"""Names that an exported SavedModel and whoever loads it agree on."""

from __future__ import annotations

# Encoded files in, and uint8 pixels in.
ENCODED = "serving_default"
PIXELS = "pixels"
ENCODED_INPUT = "image_bytes"
PIXELS_INPUT = "images"
# What heads read, of the part of a .tflite file before them.
EMBEDDING = "embedding"
# The asset that says what the outputs mean.
DESCRIPTION = "tasks.json"
