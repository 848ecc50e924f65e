"""Faces in photographs: found, cut, answered, written down."""
