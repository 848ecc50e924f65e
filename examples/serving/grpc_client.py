"""Asks a TensorFlow Serving server over gRPC: python grpc_client.py FACE.jpg ..."""

import os
import sys
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

ADDRESS = os.environ.get("HYDRANET_GRPC", "127.0.0.1:8500")

request = predict_pb2.PredictRequest()
request.model_spec.name = "hydranet"
encoded = [Path(path).read_bytes() for path in sys.argv[1:]]
request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(encoded, tf.string))
with grpc.insecure_channel(ADDRESS) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    outputs = stub.Predict(request, timeout=60).outputs
predictions = {name: tf.make_ndarray(outputs[name]).tolist() for name in outputs}
for path, *row in zip(sys.argv[1:], *predictions.values(), strict=True):
    print(path, dict(zip(predictions, row, strict=True)))
