"""Whether the GPU delegates of phones take a .tflite file whole."""

from __future__ import annotations

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from hydranet_tf.exporting import litert


def check_for_gpu(content: bytes, capfd) -> None:
    """Asserts what LiteRT's analyser says, and what it does not look at.

    A delegate takes tensors of four axes, and one batch from the first to the last.
    """
    capfd.readouterr()
    tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    said = capfd.readouterr().out
    assert "Your model looks compatible with GPU delegate" in said
    assert "GPU COMPATIBILITY WARNING" not in said
    assert not {"GATHER", "CUMSUM", "REVERSE_V2"} & set(litert.operators(content))
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    for step in map(graph.Operators, range(graph.OperatorsLength())):
        for output in map(graph.Tensors, step.OutputsAsNumpy().tolist()):
            shape = output.ShapeAsNumpy().tolist()
            assert len(shape) <= 4 and shape[0] == 1, (output.Name(), shape)
