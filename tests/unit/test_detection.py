"""What any detector may give."""

from __future__ import annotations

import pytest

from hydranet_tf.data.detection import Detection, DetectionError


@pytest.mark.parametrize(
    ("box", "landmarks", "hint"),
    [
        ((10, 0, 5, 9), None, "left < right"),
        ((0, 9, 5, 9), None, "top < bottom"),
        ((0, 0, float("nan"), 9), None, "left < right"),
        ((0, 0, 9, 9), ((1, 1),), "two eyes"),
        ((0, 0, 9, 9), ((1, 1), (5, float("inf"))), "two eyes"),
        ((0, 0, 9, 9), ((4, 4), (4, 4)), "both are at"),
    ],
)
def test_what_no_detection_can_be(box, landmarks, hint):
    with pytest.raises(DetectionError, match=hint):
        Detection(box, 0.5, landmarks)
