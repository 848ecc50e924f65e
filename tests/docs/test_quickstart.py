"""examples/quickstart.ipynb, run from top to bottom."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
# Several times what two busy cores took for its longest cell.
SECONDS = 400


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert [(cell.outputs, cell.execution_count) for cell in code] == [
        ([], None) for _ in code
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The notebook with its outputs, and the folder that it wrote."""
    folder = tmp_path_factory.mktemp("quickstart")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    patch = pytest.MonkeyPatch()
    # The kernel inherits it, and what it writes goes with the test.
    patch.setenv("TMPDIR", str(folder))
    # Of the tests' own choice; a notebook shows pictures its own way.
    patch.delenv("MPLBACKEND", raising=False)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(EXAMPLES)}}
    )
    with patch.context():
        client.execute()
    patch.undo()
    (output,) = folder.glob("quickstart-*")
    return notebook, output


def printed(notebook) -> str:
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )


@pytest.mark.long
def test_it_shows_three_pictures_and_no_warning(ran):
    notebook, _ = ran
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    said = "".join(o.text for o in outputs if o.get("name") == "stderr")
    assert "Warning" not in said


@pytest.mark.long
def test_its_numbers_follow_from_pixels_and_file_names(ran):
    """The exported file, asked here for each test face, labels from the names."""
    notebook, output = ran
    with open(output / "report" / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    network = Interpreter(str(output / "export" / "hydranet.tflite"))
    ask = network.get_signature_runner()
    labels, outputs = [], []
    for row in predictions:
        labels.append([int(part) for part in row["id"].split("_")[:3]])
        # 48 pixels as drawn: nothing to crop or resize. Pillow decodes as the
        # pipeline does.
        pixels = np.asarray(Image.open(output / "faces" / row["id"]), np.float32)
        found = ask(images=pixels[np.newaxis])
        outputs.append(
            [found["age"][0], found["gender"][0].argmax(), found["race"][0].argmax()]
        )
        assert float(row["predicted_age"]) == pytest.approx(outputs[-1][0], abs=0.02)
    labels, outputs = np.array(labels), np.array(outputs)
    assert 50 < len(labels) < 110
    age = np.abs(outputs[:, 0] - labels[:, 0]).mean()
    gender, race = (outputs[:, 1:] == labels[:, 1:]).mean(axis=0)
    text = printed(notebook)
    told = re.search(r"age: off by ([\d.]+) years", text)
    assert float(told[1]) == pytest.approx(age, abs=0.011)
    for name, fraction in (("gender", gender), ("race", race)):
        told = re.search(rf"^{name}: ([\d.]+)% right", text, re.M)
        assert float(told[1]) / 100 == pytest.approx(fraction, abs=0.0006)
    # Always one class: half and a fifth; always the median age: 25 years.
    assert gender > 0.7 and race > 0.5 and age < 15


@pytest.mark.long
def test_the_learned_weights_moved(ran):
    lines = (ran[1] / "run" / "metrics.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    assert len(lines) == last["epoch"]
    for name in ("alpha", "beta", "gamma"):
        assert abs(last[name] / first[name] - 1) > 0.02, name
