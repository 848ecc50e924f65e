"""The service: an ASGI application, and the processes that run it.

    POST /v1/faces                  photographs to rows, one a face
    POST /v1/models/NAME:predict    cropped faces, as TensorFlow Serving takes them
    GET  /v1/models/NAME            whether the model is there
    GET  /healthz, /readyz          for whoever watches the process
    GET  /docs, /openapi.json       all of it, described

Each process holds one model. Pictures are read and searched side by side in threads;
the faces found on all connections are scored together.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from uvicorn.supervisors import Multiprocess

from hydranet_tf import __version__
from hydranet_tf.data.detection import DetectionError
from hydranet_tf.errors import HydraNetError
from hydranet_tf.inference.predictor import Face, Found, PictureError, Predictor
from hydranet_tf.inference.runtimes import Runtime
from hydranet_tf.photos import predict, rows
from hydranet_tf.serving import requests
from hydranet_tf.serving.limits import BodyLimits, Slots

# Where a worker process finds its settings, as JSON.
SETTINGS = "HYDRANET_SERVE_SETTINGS"
JSON_LINES = "application/x-ndjson"
# Pictures whose faces are scored together.
_BATCH = 32
_MEANING = (
    "The predictions estimate what annotators saw in pictures. They are not facts "
    "about a person."
)

Item = TypeVar("Item")
Result = TypeVar("Result")

# More would each hold a model for little gain.
_MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a process serves.

    Attributes:
        model: path or name of what scores; None is the released network.
        name: of the model in the paths of predict requests.
        threads: pictures that are read and searched at once.
        max_body_mb: size of a request's body in megabytes of 10^6 bytes.
        max_received_mb: of all bodies in a process together.
        max_pictures: in a request.
        max_requests: that are worked on or wait for it; more are refused.
        body_seconds: in which a body must have come.
    """

    model: str | None = None
    name: str = "hydranet"
    threads: int = 2
    max_body_mb: float = 32
    max_received_mb: float = 512
    max_pictures: int = 32
    max_requests: int = 64
    body_seconds: float = 30


class Service:
    """The model of a process, and who may use it."""

    def __init__(self, settings: Settings, predictor: Predictor) -> None:
        self.settings = settings
        self.predictor = predictor
        # For pictures that are a face already.
        self.cropped = Predictor(predictor.runtime, None)
        self.slots = Slots(settings.max_requests)
        self.score = Batcher(predictor.predict, _BATCH)
        self.predict = Batcher(lambda crops: _predict(self.runtime, crops), _BATCH)
        self._threads = ThreadPoolExecutor(settings.threads, "pictures")

    @property
    def runtime(self) -> Runtime:
        return self.predictor.runtime

    def warm_up(self) -> None:
        """Loads what the first request would wait for."""
        size = self.runtime.image_size
        self.predictor.find(np.zeros((64, 64, 3), np.uint8))
        self.runtime.predictions(np.zeros((1, size, size, 3), np.uint8))

    async def find(self, predictor: Predictor, encoded: bytes) -> Found | str:
        """The faces of a picture, or the status that tells why there are none."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, predictor.find, encoded)
        except PictureError as error:
            return f"{rows.UNREADABLE}: {error}"
        except DetectionError as error:
            return f"{rows.FAILED}: {error}"

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _predict(
    runtime: Runtime, crops: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Predictions for several arrays of crops, each its own."""
    ends = np.cumsum([len(one) for one in crops])[:-1]
    predictions = runtime.predictions(np.concatenate(crops))
    parts = {name: np.split(values, ends) for name, values in predictions.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(crops))]


def from_environment() -> FastAPI:
    """What a worker process serves: settings come from the variable `SETTINGS`."""
    return create(Settings(**json.loads(os.environ.get(SETTINGS, "{}"))))


def create(settings: Settings, predictor: Predictor | None = None) -> FastAPI:
    """Makes the application.

    Args:
        settings: limits, and which model.
        predictor: a loaded one, in place of what the settings name.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loaded = predictor or Predictor(settings.model)
        app.state.service = service = Service(settings, loaded)
        await asyncio.to_thread(service.warm_up)
        yield
        service.close()

    app = FastAPI(
        title="hydranet",
        version=__version__,
        description=f"Faces in photographs: age, gender, race. {_MEANING}",
        lifespan=lifespan,
    )
    app.add_middleware(
        BodyLimits,
        body_bytes=int(settings.max_body_mb * 1e6),
        all_bytes=int(settings.max_received_mb * 1e6),
        seconds=settings.body_seconds,
    )

    @app.exception_handler(HTTPException)
    async def say_why(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", summary="Whether it takes requests now")
    async def readyz(request: Request) -> dict[str, Any]:
        service: Service = request.app.state.service
        with service.slots.one():
            return {"status": "ready", "model": settings.name, "version": __version__}

    @app.post(
        "/v1/faces",
        summary="Photographs to rows, one a face",
        openapi_extra={"requestBody": requests.BODY},
        responses=_responses(),
    )
    async def faces(request: Request, detect: bool = True) -> Response:
        """Finds the faces of one or several photographs and scores each.

        The rows are those of `hydranet predict --output=faces.jsonl`. With
        `Accept: application/x-ndjson` they come as lines. `detect=false` takes each
        picture as a face that is cropped as training faces are.
        """
        service: Service = request.app.state.service
        found = await requests.read_pictures(request, settings.max_pictures)
        with service.slots.one():
            finder = service.predictor if detect else service.cropped
            scored = await asyncio.gather(
                *(_rows(service, finder, picture) for picture in found)
            )
        statuses = [row["status"] for of_picture in scored for row in of_picture]
        if all(one.startswith(rows.UNREADABLE) for one in statuses):
            raise HTTPException(422, "; ".join(dict.fromkeys(statuses)))
        flat = [row for of_picture in scored for row in of_picture]
        if JSON_LINES in request.headers.get("accept", ""):
            lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in flat)
            return Response(lines, media_type=JSON_LINES)
        return JSONResponse({"rows": flat})

    @app.get("/v1/models/{name}", summary="Whether the model is there")
    async def model(name: str) -> dict[str, Any]:
        _check_name(name, settings.name)
        return {"name": name, "ready": True}

    @app.post(
        "/v1/models/{name}:predict",
        summary="Cropped faces, as TensorFlow Serving takes them",
        openapi_extra={
            "requestBody": {"content": {"application/json": {"schema": _PREDICT}}}
        },
    )
    async def predict(name: str, request: Request) -> Response:
        """Predicts for files of faces or for their pixels.

        A picture that cannot be decoded costs its own row and no other: each number
        of it is -1.
        """
        _check_name(name, settings.name)
        service: Service = request.app.state.service
        body = await request.body()
        with service.slots.one():
            try:
                asked = json.loads(body)
            except (ValueError, RecursionError):
                raise HTTPException(
                    400, "Unrecognized request format: no JSON"
                ) from None
            try:
                images = requests.parse_predict(asked, service.runtime.image_size)
            except requests.RequestError as error:
                raise HTTPException(400, str(error)) from error
            columns = await _columns(service, images)
        return JSONResponse(requests.predict_reply(asked, columns))

    return app


async def _rows(
    service: Service, finder: Predictor, picture: requests.Picture
) -> list[dict[str, Any]]:
    found = await service.find(finder, picture.encoded)
    faces: list[Face] | str
    faces = found if isinstance(found, str) else await service.score(found)
    damage = None if isinstance(found, str) else found.damage
    return predict.rows_of(picture.name, faces, damage)


async def _columns(
    service: Service, images: list[bytes] | np.ndarray
) -> dict[str, np.ndarray]:
    """Predictions by output; -1 throughout for what cannot be decoded."""
    if isinstance(images, np.ndarray):
        return await service.predict(images)
    found = await asyncio.gather(
        *(service.find(service.cropped, encoded) for encoded in images)
    )
    decoded = np.array([isinstance(one, Found) for one in found])
    size = service.runtime.image_size
    crops = [one.crops for one in found if isinstance(one, Found)]
    crops.append(np.zeros((0, size, size, 3), np.uint8))
    predictions = await service.predict(np.concatenate(crops))
    columns = {}
    for name, values in predictions.items():
        columns[name] = np.full((len(found), *values.shape[1:]), -1, np.float32)
        columns[name][decoded] = values
    return columns


def _check_name(name: str, known: str) -> None:
    if name != known:
        raise HTTPException(404, f"Model with name {name} does not exist.")


def _responses() -> dict[int | str, dict[str, Any]]:
    row = {"type": "object", "properties": {name: {} for name in rows.COLUMNS}}
    table = {"type": "object", "properties": {"rows": {"type": "array", "items": row}}}
    return {
        200: {
            "description": "A row for each face, or one that says why there is none.",
            "content": {
                "application/json": {"schema": table},
                JSON_LINES: {"schema": row},
            },
        },
        400: {"description": "The request is not as it should be."},
        408: {"description": "The body did not come in time."},
        413: {"description": "The body is too large, or there are too many pictures."},
        415: {"description": "The content type does not hold pictures."},
        422: {"description": "No picture of the request can be read."},
        503: {"description": "Too much to do: try again after `Retry-After` seconds."},
    }


_LIST = {"type": "array", "items": {}}
_PREDICT = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string", "enum": list(requests.SIGNATURES)},
        "instances": _LIST,
        "inputs": _LIST,
    },
}


class Batcher(Generic[Item, Result]):
    """Runs a function over batches of what waits; one batch at a time, in a thread.

    Nothing waits for a batch to fill: a batch is all that came while the one before it
    ran, so that a lone request is not delayed. All calls come from one event loop.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], most: int
    ) -> None:
        """Takes what answers a batch.

        Args:
            run: gives a result for each item, in their order.
            most: items of a batch.
        """
        self._run = run
        self._most = most
        self._waiting: collections.deque[tuple[Item, asyncio.Future[Result]]]
        self._waiting = collections.deque()
        # The loop itself keeps no hold of a task.
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """The result of one item.

        Raises:
            Exception: what `run` raised for the batch that the item was in.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch = []
            while self._waiting and len(batch) < self._most:
                one = self._waiting.popleft()
                # Whoever hung up is not worked for.
                if not one[1].done():
                    batch.append(one)
            if not batch:
                continue
            try:
                items = [item for item, _ in batch]
                results = await asyncio.to_thread(self._run, items)
                pairs = list(zip(batch, results, strict=True))
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in pairs:
                if not future.done():
                    future.set_result(result)


class ServeError(HydraNetError, RuntimeError):
    """A service that cannot be started; the message says why."""


def default_workers() -> int:
    """One for each core, and two at least: while one is started again, one answers."""
    return min(_MOST_WORKERS, max(2, os.cpu_count() or 1))


def _say_where(host: str, port: int) -> None:
    address = f"http://{host}:{port}"
    # Flushed for whoever started this and waits for the port.
    print(f"{address}/v1/faces takes photographs; {address}/docs says how", flush=True)


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8501,
    workers: int | None = None,
    announce: Callable[[str, int], None] = _say_where,
) -> None:
    """Answers until the process gets SIGINT or SIGTERM.

    Args:
        settings: of each worker.
        host: address to listen on. There is no password and no encryption: what is
            reachable from other machines belongs behind a proxy that has both.
        port: 0 takes a free one.
        workers: processes; None is `default_workers`.
        announce: gets the address, once it is taken.

    Raises:
        ServeError: if the address is taken.
        runtimes.LoadError: if there is no whole model.
    """
    # Said here and once, rather than by each worker in a traceback.
    Predictor(settings.model)
    try:
        listener = socket.create_server((host, port), backlog=2048, reuse_port=False)
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    os.environ[SETTINGS] = json.dumps(dataclasses.asdict(settings))
    config = uvicorn.Config(
        f"{__name__}:{from_environment.__name__}",
        factory=True,
        workers=workers or default_workers(),
        log_level="warning",
        timeout_graceful_shutdown=30,
        # A worker that is silent for so long is killed and started again.
        timeout_worker_healthcheck=30,
    )
    listener.set_inheritable(True)
    with listener:
        announce(*listener.getsockname()[:2])
        Multiprocess(config, sockets=[listener]).run()
