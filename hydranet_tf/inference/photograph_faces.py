"""Faces that are found and cropped in labelled photographs before they are used.

An evaluation of photographs goes the way of predict.py: what its detector finds, and
how it is cropped, is part of the result. Training on photographs goes the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from hydranet_tf.data import sources
from hydranet_tf.data.formats import PictureError
from hydranet_tf.inference.predictor import Found


@dataclasses.dataclass(frozen=True)
class Search:
    """What came of the search.

    Attributes:
        examples: one face for each picture that has one, the largest, as the bytes of
            a PNG file; pictures that cannot be read stay what they are.
        pictures: how many were searched.
        without_face: ids of those in which no face was found, in order.
        with_several: how many had more than one.
    """

    examples: sources.Examples
    pictures: int
    without_face: tuple[str, ...]
    with_several: int

    def to_json(self) -> dict[str, Any]:
        """The part `data.faces` of report.json."""
        return {
            "pictures": self.pictures,
            "without_face": list(self.without_face),
            "with_several": self.with_several,
        }


def search(examples: sources.Examples, find: Callable[[bytes], Found]) -> Search:
    """Finds and crops the faces of labelled photographs.

    Args:
        examples: photographs, each labelled for its largest face.
        find: finds and crops, as `Predictor.find`; nothing is predicted.

    Raises:
        detection.DetectionError: if the detector fails.
    """
    kept, faces, without, several = [], {}, [], 0
    for number in tqdm(
        range(len(examples)), desc="finding faces", unit="img", disable=None
    ):
        try:
            found = find(examples.read(number)).crops
        except (OSError, PictureError):
            # Whoever decodes it next says what is wrong with it.
            kept.append(number)
            continue
        if not len(found):
            without.append(str(examples.ids[number]))
            continue
        faces[len(kept)] = _png(found[0])
        kept.append(number)
        several += len(found) > 1
    chosen = examples.select(kept)

    def read(number: int) -> bytes:
        return faces[number] if number in faces else chosen.read(number)

    return Search(
        # Not `paths`: the files there hold whole photographs.
        dataclasses.replace(chosen, read=read, paths=None),
        len(examples),
        tuple(without),
        several,
    )


def _png(face: np.ndarray) -> bytes:
    """Without loss."""
    return cv2.imencode(".png", face[..., ::-1])[1].tobytes()
