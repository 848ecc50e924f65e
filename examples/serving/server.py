"""A server for machines without TensorFlow Serving, over HTTP and gRPC.

HTTP is `hydranet serve`, which speaks the predict requests of TensorFlow Serving; gRPC
is TensorFlow Serving's Predict on its published stubs. Both answer from the newest
version of one SavedModel; TensorFlow Serving follows new versions, where it runs.

    pip install '.[train,serve,tf_serving]'
    python server.py exports/utkface_dlib29/hydranet

There is no password and no encryption: it listens on 127.0.0.1, and a proxy in front of
it is for the rest of the world. Who needs no gRPC takes `hydranet serve --model=...`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import grpc_server
from served_model import RequestError, ServedModel

from hydranet_tf.errors import HydraNetError
from hydranet_tf.serving import app

HOST = "127.0.0.1"


def run(folder: Path, http_port: int, grpc_port: int) -> None:
    """Answers until the process is stopped; port 0 takes a free one."""
    model = ServedModel(folder)
    calls, grpc_port = grpc_server.start(model, HOST, grpc_port)

    def announce(_: str, port: int) -> None:
        ports = {"http": port, "grpc": grpc_port}
        about = {"model": model.name, "version": model.version, **ports}
        # Flushed for whoever started this and waits for the ports.
        print(json.dumps(about), flush=True)

    settings = app.Settings(model=str(folder.resolve()), name=model.name)
    try:
        app.serve(settings, HOST, http_port, workers=1, announce=announce)
    finally:
        calls.stop(grace=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="NAME, with NAME/1, NAME/2, ...")
    parser.add_argument("--http_port", type=int, default=8501)
    parser.add_argument("--grpc_port", type=int, default=8500)
    options = parser.parse_args()
    try:
        run(options.folder, options.http_port, options.grpc_port)
    except (RequestError, HydraNetError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
