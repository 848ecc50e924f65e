"""The Kotlin sample against a file that was really exported.

No Android SDK is there to build it with; what its sources say about names, shapes,
files, versions and pixels can be held against the truth all the same.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from small_network import SIZE, random_model

from hydranet_tf.data import graph_decoding
from hydranet_tf.exporting import litert, saved_model

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "android"
SOURCES = SAMPLE / "app/src/main/kotlin/org/hydranet/sample"
NETWORK = (SOURCES / "FaceNetwork.kt").read_text()
CROP = (SOURCES / "FaceCrop.kt").read_text()
GRADLE = (SAMPLE / "app/build.gradle.kts").read_text()
README = (SAMPLE / "README.md").read_text()

# const val NAME = "value" // type [shape]
CONSTANTS = {
    name: (value, comment or "")
    for name, value, comment in re.findall(
        r'const val (\w+) = "([^"]+)"(?: // (.*))?', NETWORK
    )
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an export under the name that the app's assets have."""
    folder = tmp_path_factory.mktemp("assets")
    model = random_model()
    litert.write(
        model.inference_model(),
        saved_model.describe(model.tasks, SIZE),
        folder / CONSTANTS["MODEL_FILE"][0],
    )
    return folder


@pytest.fixture(scope="module")
def signature(exported):
    content = (exported / "hydranet.tflite").read_bytes()
    name = CONSTANTS["SIGNATURE"][0]
    return Interpreter(model_content=content).get_signature_runner(name)


def test_the_constants_are_found():
    assert set(CONSTANTS) == {
        "MODEL_FILE", "DESCRIPTION_FILE", "GENDER_LABELS", "RACE_LABELS",
        "SIGNATURE", "INPUT", "AGE", "GENDER", "RACE",
    }  # fmt: skip
    assert CONSTANTS["MODEL_FILE"][0] == litert.file_name("hydranet", "float32")


def test_names_types_and_shapes_are_those_of_the_file(signature):
    details = {**signature.get_input_details(), **signature.get_output_details()}
    said = dict(CONSTANTS[name] for name in ("INPUT", "AGE", "GENDER", "RACE"))
    assert set(said) == set(details)
    for name, tensor in details.items():
        shape = ", ".join(str(side) for side in tensor["shape"])
        shape = shape.replace(f"{SIZE}, {SIZE}", "imageSize, imageSize")
        assert said[name] == f"{np.dtype(tensor['dtype']).name} [{shape}]"


def test_the_assets_come_out_of_the_file(exported):
    with zipfile.ZipFile(exported / "hydranet.tflite") as archive:
        within = set(archive.namelist())
        labels = {
            name: archive.read(CONSTANTS[f"{name.upper()}_LABELS"][0]).decode().split()
            for name in ("gender", "race")
        }
    assets = {CONSTANTS[name][0] for name in CONSTANTS if name.endswith("_LABELS")}
    assets.add(CONSTANTS["DESCRIPTION_FILE"][0])
    assert within == assets
    assert len(labels["gender"]) == 2
    assert len(labels["race"]) == 5
    # What Gradle asks for before it builds.
    needed = re.search(r"val needed = listOf\((.*?)\)", GRADLE, re.DOTALL)
    assert set(re.findall(r'"([^"]+)"', needed[1])) == {"hydranet.tflite", *assets}
    command = "python -m zipfile -e exports/faces/hydranet.tflite"
    assert command in README


def test_keys_of_the_description_are_there(exported):
    with zipfile.ZipFile(exported / "hydranet.tflite") as archive:
        found = archive.read("description.json").decode()
    keys = set(re.findall(r'get(?:Int|String|JSONObject)\("([^"]+)"\)', NETWORK))
    assert keys == {"image_size", "inputs", "dtype"}
    for key in keys:
        assert f'"{key}"' in found


def test_outputs_are_asked_for_by_name():
    assert "createOutputBuffer(name, SIGNATURE)" in NETWORK
    assert "model.run(inputs, outputs, SIGNATURE)" in NETWORK
    assert not re.search(r"[oO]utputs?\[\d", NETWORK)
    assert "org.tensorflow.lite" not in NETWORK + GRADLE


def test_versions_are_pinned_and_are_those_of_the_readme():
    project = (SAMPLE / "build.gradle.kts").read_text()
    found = dict(re.findall(r'implementation\("([^"]+):([^":]+)"\)', GRADLE))
    found |= dict(re.findall(r'id\("([^"]+)"\) version "([^"]+)"', project))
    assert set(found) == {
        "com.google.ai.edge.litert:litert",
        "androidx.exifinterface:exifinterface",
        "com.android.application",
        "org.jetbrains.kotlin.android",
    }
    table = README[README.index("| What |") : README.index("On the GPU")]
    for version in found.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert f"| {version} |" in table
    assert re.search(r"pinned on \d{4}-\d\d-\d\d", README)
    assert "It was not built" in README


def test_the_crop_rule_is_that_of_the_description():
    description = saved_model.describe(random_model().tasks, SIZE)
    for words in ("upright", "largest centred square", "antialiased bilinear", "round"):
        assert words in description["crop"].lower()
        assert words in CROP.lower()


# The lines of FaceCrop.kt that `kotlin_weights` and `kotlin_resize` repeat.
KOTLIN_LINES = """
val scale = side.toFloat() / size
val radius = max(scale, 1f)
val centre = (i + 0.5f) * scale
val first = max(0, floor(centre - radius).toInt())
val last = min(side, ceil(centre + radius).toInt()) - 1
val shares = FloatArray(last - first + 1) { k ->
max(0f, 1f - abs(first + k + 0.5f - centre) / radius)
return first to FloatArray(shares.size) { shares[it] / sum }
across[0][y * size + x] += shares[k] * Color.red(pixel)
sum += shares[k] * across[channel][(first + k) * size + x]
sum.roundToInt().coerceIn(0, 255)
"""


def kotlin_weights(side, size):
    matrix = np.zeros((size, side))
    for i in range(size):
        scale = side / size
        radius = max(scale, 1)
        centre = (i + 0.5) * scale
        first = max(0, math.floor(centre - radius))
        last = min(side, math.ceil(centre + radius)) - 1
        for k in range(last - first + 1):
            matrix[i, first + k] = max(0, 1 - abs(first + k + 0.5 - centre) / radius)
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("side", [40, 57, 100, 333, 23])
def test_the_filter_in_kotlin_gives_training_s_pixels(side):
    for line in KOTLIN_LINES.strip().splitlines():
        assert line in CROP
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    weights = kotlin_weights(side, SIZE)
    found = np.einsum("ay,bx,yxc->abc", weights, weights, image)
    found = np.clip(np.floor(found + 0.5), 0, 255)
    expected = graph_decoding.resize(image.astype(np.uint8), SIZE).numpy()
    # A half may be rounded to either side.
    assert np.abs(found - expected).max() <= 1
    assert np.mean(found == expected) > 0.99
