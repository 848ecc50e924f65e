"""Faces in photographs: found, cropped, predicted, written down."""
