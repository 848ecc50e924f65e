"""SFace's trunk as an ONNX file by the onnx package, with random weights: for tests.

Names, order and attributes are those of OpenCV's face_recognition_sface_2021dec.onnx:
normalisation stands after each convolution, PReLU after that, and a last normalisation
before the pooling.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Channels that go in and come out, and the stride of the depthwise convolution.
PAIRS = (
    (32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1),
    (256, 512, 2), *[(512, 512, 1)] * 5, (512, 1024, 2), (1024, 1024, 1),
)  # fmt: skip


def sface(seed: int = 0) -> onnx.ModelProto:
    """A model from `data` `[n, 3, height, width]`, RGB 0..255, to `pooled`."""
    rng = np.random.default_rng(seed)
    weights = {"scalar_op1": np.float32([127.5]), "scalar_op2": np.float32([1 / 128])}
    nodes = [
        helper.make_node("Sub", ["data", "scalar_op1"], ["centred"]),
        helper.make_node("Mul", ["centred", "scalar_op2"], ["scaled"]),
    ]

    def normalised(name: str, channels: int, epsilon: float) -> None:
        # Small enough here and there for the epsilon to count; what comes out of a
        # layer stays as large as what goes in.
        variance = rng.uniform(0.02, 2.0, channels)
        parts = {
            "gamma": np.sqrt(variance) * rng.uniform(0.5, 1.3, channels),
            "beta": rng.normal(0, 0.1, channels),
            "moving_mean": rng.normal(0, 0.1, channels),
            "moving_var": variance,
        }
        names = [f"{name}_{part}" for part in parts]
        weights.update(zip(names, map(np.float32, parts.values()), strict=True))
        nodes.append(
            helper.make_node(
                "BatchNormalization",
                [nodes[-1].output[0], *names],
                [name],
                epsilon=epsilon,
            )
        )

    def convolved(name: str, inputs: int, outputs: int, side: int, stride: int, group):
        shape = (outputs, inputs // group, side, side)
        spread = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}_conv2d_weight"] = rng.normal(0, spread, shape).astype("f4")
        nodes.append(
            helper.make_node(
                "Conv",
                [nodes[-1].output[0], f"{name}_conv2d_weight"],
                [f"{name}_conv2d"],
                kernel_shape=[side, side],
                pads=[side // 2] * 4,
                strides=[stride, stride],
                group=group,
            )
        )
        normalised(f"{name}_batchnorm", outputs, 1e-3)
        slopes = rng.uniform(-0.2, 0.6, (outputs, 1, 1)).astype("f4")
        weights[f"{name}_relu_gamma"] = slopes
        nodes.append(
            helper.make_node(
                "PRelu", [nodes[-1].output[0], f"{name}_relu_gamma"], [f"{name}_relu"]
            )
        )

    convolved("conv_1", 3, 32, 3, 1, 1)
    for number, (inputs, outputs, stride) in enumerate(PAIRS, 2):
        convolved(f"conv_{number}_dw", inputs, inputs, 3, stride, inputs)
        convolved(f"conv_{number}", inputs, outputs, 1, 1, 1)
    normalised("bn1", 1024, 2e-5)
    nodes.append(helper.make_node("GlobalAveragePool", ["bn1"], ["pooled"]))
    graph = helper.make_graph(
        nodes,
        "sface",
        [
            helper.make_tensor_value_info(
                "data", onnx.TensorProto.FLOAT, ["n", 3, None, None]
            )
        ],
        [
            helper.make_tensor_value_info(
                "pooled", onnx.TensorProto.FLOAT, ["n", 1024, 1, 1]
            )
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", 15)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)
