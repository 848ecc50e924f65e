"""The part of a .tflite file before its heads: pixels to the features that they read.

It is cut out of the network when someone asks for features. So the file carries nothing
for it, and predictions cost what they did.
"""

from __future__ import annotations

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from hydranet_tf.inference import export_metadata

_FILE_IDENTIFIER = b"TFL3"


def of(content: bytes) -> bytes | None:
    """The network without its heads.

    A backbone ends in the mean over its last features, and heads begin with dense
    layers: the first of them read what is wanted. Of a network that looks at a face and
    at its mirror image, the face's own features are taken.

    Args:
        content: of a .tflite file of one signature, as `export.py` writes it.

    Returns:
        Another, whose signature has the one output `export_metadata.EMBEDDING`; None
        where there is no dense layer.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    (signature,) = model.signatureDefs
    graph = model.subgraphs[signature.subgraphIndex]
    codes = [code.builtinCode for code in model.operatorCodes]
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    # By the tensor that it makes: what each needs, itself included.
    needed: dict[int, frozenset[int]] = {}
    of_heads: set[int] = set()
    candidates: dict[int, frozenset[int]] = {}
    # Operators stand in an order in which they can run.
    for number, operator in enumerate(graph.operators):
        inputs = [int(tensor) for tensor in operator.inputs]
        before = frozenset[int]().union(*(needed.get(one, ()) for one in inputs))
        is_dense = codes[operator.opcodeIndex] == dense
        if is_dense and inputs[0] not in of_heads:
            candidates[inputs[0]] = needed.get(inputs[0], frozenset())
        for tensor in operator.outputs:
            needed[int(tensor)] = before | {number}
            if is_dense or not of_heads.isdisjoint(inputs):
                of_heads.add(int(tensor))
    if not candidates:
        return None
    # To mirror an image is work that the other one goes without.
    features = min(candidates, key=lambda tensor: len(candidates[tensor]))
    kept = candidates[features]
    graph.operators = [one for i, one in enumerate(graph.operators) if i in kept]
    graph.outputs = [features]
    signature.outputs = [_named(export_metadata.EMBEDDING, features)]
    # Nothing of it is true of this network, and its checksums least of all.
    model.metadata, model.metadataBuffer = [], []
    return _packed(model, len(content))


def _named(name: str, tensor: int) -> schema.TensorMapT:
    found = schema.TensorMapT()
    found.name, found.tensorIndex = name, tensor
    return found


def _packed(model: schema.ModelT, size: int) -> bytes:
    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())
