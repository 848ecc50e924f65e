"""docs/keras.md runs from its first line to its last."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "docs" / "keras.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 10
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["history"].history["age_mae"][0] > 0
    assert names["fixed"].task_weights()["alpha"] == np.float32(0.1)
    assert list(names["again"].task_weights()) == ["alpha", "beta", "gamma"]
    # 4 tensors of each head, and the weights of the losses.
    assert len(names["again"].trainable_variables) == 13
    np.testing.assert_allclose(names["predictions"]["race"].sum(axis=1), 1, rtol=1e-5)
