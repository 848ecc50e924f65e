"""A server for machines without TensorFlow Serving, over HTTP and gRPC.

HTTP is KServe's Python server, which speaks the predict requests of TensorFlow
Serving; gRPC is TensorFlow Serving's Predict on its published stubs. Both
answer from one version of one SavedModel and join no batches: TensorFlow
Serving does, and follows new versions, where it runs.

    pip install '.[serve]'
    python server.py exports/utkface_dlib29/hydranet

It needs neither hydranet_tf nor Keras. There is no password and no encryption:
it listens on 127.0.0.1, and a proxy in front of it is for the rest of the world.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import socket
from pathlib import Path
from typing import Any

import grpc_server
import kserve
from kserve.errors import InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from served_model import DEFAULT_SIGNATURE, RequestError, ServedModel

HOST = "127.0.0.1"
# TensorFlow Serving's two layouts: one object an image, or one list an output.
ROW_OR_COLUMN = {"instances", "inputs"}


def _plain(value: Any) -> Any:
    """JSON values with each `{"b64": text}` replaced by its bytes."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise RequestError("a b64 value is not base64") from error
    return value


def answer(model: ServedModel, asked: Any) -> dict[str, Any]:
    """The answer to the JSON of one predict request.

    Raises:
        RequestError: the request is wrong; its message says what to change.
    """
    if not isinstance(asked, dict) or len(asked.keys() & ROW_OR_COLUMN) != 1:
        raise RequestError('expected JSON: {"instances": [...]} or {"inputs": [...]}')
    signature = str(asked.get("signature_name") or DEFAULT_SIGNATURE)
    name, _ = model.input_of(signature)
    if "inputs" in asked:
        values = asked["inputs"]
        if isinstance(values, dict) and set(values) == {name}:
            values = values[name]
    else:
        values = asked["instances"]
        if isinstance(values, list):
            values = [
                v[name] if isinstance(v, dict) and set(v) == {name} else v
                for v in values
            ]
    if not isinstance(values, list) or not values:
        raise RequestError("expected a list with at least one image")
    columns = {
        k: v.tolist() for k, v in model.predict(signature, _plain(values)).items()
    }
    if "inputs" in asked:
        return {"outputs": columns}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


class KServeModel(kserve.Model):
    """The model as KServe's server calls it."""

    def __init__(self, model: ServedModel):
        super().__init__(model.name)
        self._model = model
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        # In a thread, so that other requests are read meanwhile.
        try:
            return await asyncio.to_thread(answer, self._model, payload)
        except RequestError as error:
            raise InvalidInput(str(error)) from error


def serve(folder: Path, http_port: int, grpc_port: int) -> None:
    """Answers until the process is stopped; port 0 takes a free one."""
    model = ServedModel(folder)
    models = kserve.ModelRepository()
    models.update(KServeModel(model))
    # Not kserve.ModelServer: that one listens to every network, and starts a
    # gRPC server of another protocol.
    http = RESTServer(
        "kserve.model_server:app",
        DataPlane(models),
        ModelRepositoryExtension(models),
        http_port,
    )
    calls, grpc_port = grpc_server.start(model, HOST, grpc_port)
    with socket.create_server((HOST, http_port)) as listener:
        ports = {"http": listener.getsockname()[1], "grpc": grpc_port}
        about = {"model": model.name, "version": model.version, **ports}
        # Flushed for whoever started this and waits for the ports.
        print(json.dumps(about), flush=True)
        try:
            http.run(sockets=[listener])
        finally:
            calls.stop(grace=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="NAME, with NAME/1, NAME/2, ...")
    parser.add_argument("--http_port", type=int, default=8501)
    parser.add_argument("--grpc_port", type=int, default=8500)
    options = parser.parse_args()
    try:
        serve(options.folder, options.http_port, options.grpc_port)
    except RequestError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
