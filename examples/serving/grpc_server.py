"""The gRPC half of server.py: TensorFlow Serving's Predict."""

from __future__ import annotations

from concurrent import futures

import grpc
import tensorflow as tf
from served_model import DEFAULT_SIGNATURE, RequestError, ServedModel
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

# 64 images of a megabyte each.
MAX_REQUEST_BYTES = 64 * 1024 * 1024


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers for one version of one model."""

    def __init__(self, model: ServedModel):
        self._model = model

    def Predict(self, request, context):
        asked = request.model_spec
        if asked.name != self._model.name or (
            asked.HasField("version") and asked.version.value != self._model.version
        ):
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"only {self._model.name} version {self._model.version} is here",
            )
        signature = asked.signature_name or DEFAULT_SIGNATURE
        try:
            name, _ = self._model.input_of(signature)
            if set(request.inputs) != {name}:
                raise RequestError(
                    f"expected the input {name}, got {sorted(request.inputs)}"
                )
            values = tf.constant(tf.make_ndarray(request.inputs[name]))
            predictions = self._model.predict(signature, values)
        except (RequestError, TypeError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self._model.name
        response.model_spec.version.value = self._model.version
        response.model_spec.signature_name = signature
        for name, values in predictions.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return response


def start(model: ServedModel, host: str, port: int) -> tuple[grpc.Server, int]:
    """A running server and its port; port 0 takes a free one."""
    limit = ("grpc.max_receive_message_length", MAX_REQUEST_BYTES)
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[limit])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(model), server
    )
    port = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, port
