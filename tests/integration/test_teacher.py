"""The parts of examples/teacher.py, against values by hand and ONNX Runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path

import forks
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

REPOSITORY = Path(__file__).resolve().parents[2]
CHANNELS = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
STRIDED = (2, 4, 6, 12)


def predictions_of(script: str):
    """What a script prints as JSON, in a process where absl knows no other flags."""
    folders = (REPOSITORY / "examples", REPOSITORY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = forks.run(["-c", script], env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_frames_groups_and_errors_by_hand(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "near_duplicate_groups.txt").write_text("b.jpg\tc.jpg\n")
    found = predictions_of(f"""if True:
        import json
        import numpy as np
        import teacher
        from hydranet_tf.tasks import AGE

        face = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        ids = ["a.jpg", "x/b.jpg", "d.jpg", "x/c.jpg"]
        labels = np.array([20.0] * 20 + [60.0] * 20 + [-1.0, 90.0])
        off = np.where(labels == 60, -4.0, 2.0)
        off[40:] = 7
        print(json.dumps({{
            "frame": teacher.framed(face, 8, 4, 1, 3).tolist(),
            "groups": teacher.near_identical(ids, {str(lists)!r}).tolist(),
            "none": len(set(teacher.near_identical(ids, None).tolist())),
            "unbiased": teacher.unbiased(AGE, labels + off, labels).tolist(),
        }}))
    """)
    face = np.arange(48).reshape(4, 4, 3)
    # One column before the face and three after, three rows above and one below.
    expected = np.pad(face, [(3, 1), (1, 3), (0, 0)], mode="edge")
    np.testing.assert_array_equal(found["frame"], expected)
    a, b, d, c = found["groups"]
    assert b == c and len({a, b, d}) == 3
    assert found["none"] == 4
    # Each age lies on its label; what has no label, or is alone, stays.
    assert found["unbiased"] == pytest.approx([20] * 20 + [60] * 20 + [6, 97])


def random_weights(rng):
    """Names, order and shapes as faceres-deep.json has them."""
    arrays = {}

    def norm(name, count, with_scale):
        if with_scale:
            arrays[f"{name}/mul"] = rng.uniform(0.5, 1.5, count)
        arrays[f"{name}/sub"] = rng.normal(0, 0.1, count)

    def kernel(*shape):
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)

    arrays["conv1/convolution/merged_input"] = kernel(3, 3, 3, 32)
    norm("conv1_bn/batchnorm_1", 32, False)
    for number, (inputs, outputs) in enumerate(
        zip(CHANNELS[:-1], CHANNELS[1:], strict=True), 1
    ):
        depthwise = rng.normal(0, np.sqrt(2 / 9), (3, 3, inputs, 1))
        arrays[f"conv_dw_{number}/depthwise_kernel"] = depthwise
        norm(f"conv_dw_{number}_bn/batchnorm_1", inputs, True)
        arrays[f"conv_pw_{number}/convolution/merged_input"] = kernel(
            1, 1, inputs, outputs
        )
        norm(f"conv_pw_{number}_bn/batchnorm_1", outputs, False)
    for name, shape in (
        ("feats", (1024, 256)), ("gender_pred", (256, 1)), ("age_pred", (256, 100))
    ):  # fmt: skip
        arrays[f"{name}/kernel"] = kernel(*shape)
        arrays[f"{name}/bias"] = rng.normal(0, 0.1, shape[1])
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def as_onnx(arrays) -> bytes:
    """The same network by its operators: channels first, normalisation on its own."""
    weights, nodes = {"six": np.float32(6), "zero": np.float32(0)}, []

    def node(kind, inputs, **attributes):
        before = [nodes[-1].output[0]] if nodes else ["images"]
        nodes.append(
            helper.make_node(kind, [*before, *inputs], [f"n{len(nodes)}"], **attributes)
        )

    def kept(name, array):
        weights[name] = array
        return name

    def convolved(name, kernel, stride, group):
        node(
            "Conv", [kept(name, kernel)], strides=[stride] * 2, group=group,
            auto_pad="SAME_UPPER", kernel_shape=list(kernel.shape[2:]),
        )  # fmt: skip
        norm = f"{name}_bn/batchnorm_1"
        if f"{norm}/mul" in arrays:
            node("Mul", [kept(f"{norm}/mul", arrays[f"{norm}/mul"][:, None, None])])
        node("Add", [kept(f"{norm}/sub", arrays[f"{norm}/sub"][:, None, None])])
        node("Clip", ["zero", "six"])

    first = arrays["conv1/convolution/merged_input"]
    convolved("conv1", first.transpose(3, 2, 0, 1), 2, 1)
    for number in range(1, 14):
        kernel = arrays[f"conv_dw_{number}/depthwise_kernel"].transpose(2, 3, 0, 1)
        stride = 2 if number in STRIDED else 1
        convolved(f"conv_dw_{number}", kernel, stride, len(kernel))
        kernel = arrays[f"conv_pw_{number}/convolution/merged_input"]
        convolved(f"conv_pw_{number}", kernel.transpose(3, 2, 0, 1), 1, 1)
    node("GlobalAveragePool", [])
    node("Flatten", [])
    pooled = nodes[-1].output[0]

    def dense(name, source):
        names = [
            kept(f"{name}/{part}", arrays[f"{name}/{part}"])
            for part in ("kernel", "bias")
        ]
        nodes.append(helper.make_node("Gemm", [source, *names], [name]))

    dense("feats", pooled)
    nodes.append(helper.make_node("Relu", ["feats"], ["seen"]))
    dense("age_pred", "seen")
    nodes.append(helper.make_node("Softmax", ["age_pred"], ["ages"]))
    dense("gender_pred", "seen")
    nodes.append(helper.make_node("Sigmoid", ["gender_pred"], ["female"]))

    def value(name, shape):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "faceres", [value("images", [1, 3, 224, 224])],
        [value(pooled, [1, 1024]), value("ages", [1, 100]), value("female", [1, 1])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", 15)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=8
    ).SerializeToString()


def test_faceres_is_the_network_of_its_file(tmp_path):
    """Read from TensorFlow.js' two files, with random weights."""
    arrays = random_weights(np.random.default_rng(0))
    # TensorFlow.js keeps sizes and axes, too.
    arrays["global_pooling/Mean/reduction_indices"] = np.array([1, 2], np.int32)
    listed = [
        {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        for name, array in arrays.items()
    ]
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": listed}]
    numbers = b"".join(array.tobytes() for array in arrays.values())
    (tmp_path / "a.bin").write_bytes(numbers[:1_000_003])
    (tmp_path / "b.bin").write_bytes(numbers[1_000_003:])
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"weightsManifest": manifest}))
    images = np.random.default_rng(1).integers(-120, 136, (1, 224, 224, 3))
    np.save(tmp_path / "images.npy", images.astype(np.float32))
    found = predictions_of(f"""if True:
        import json
        from pathlib import Path
        import numpy as np
        import teacher

        images = np.load({str(tmp_path / "images.npy")!r})
        network = teacher.faceres(Path({str(path)!r}))
        print(json.dumps([np.asarray(one).tolist() for one in network(images)]))
    """)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(as_onnx(arrays), options)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    for ours, theirs in zip(found, session.run(None, {"images": pixels}), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.std(found[0]) > 0.01


def test_numbers_that_are_missing_or_packed_are_refused(tmp_path):
    one = {"name": "a", "shape": [3], "dtype": "float32"}
    packed = {**one, "quantization": {"dtype": "uint8"}}
    (tmp_path / "a.bin").write_bytes(bytes(16))
    for name, weights in (("long", [one]), ("packed", [packed])):
        manifest = [{"paths": ["a.bin"], "weights": weights}]
        (tmp_path / name).write_text(json.dumps({"weightsManifest": manifest}))
    found = predictions_of(f"""if True:
        import json
        from pathlib import Path
        import teacher

        said = []
        for name in ("long", "packed"):
            try:
                teacher.tensorflow_js_arrays(Path({str(tmp_path)!r}, name))
            except ValueError as error:
                said.append(str(error))
        print(json.dumps(said))
    """)
    assert "16 bytes of numbers, expected 12" in found[0]
    assert "a is not kept in 32 bits" in found[1]
