"""Answers for photographs over HTTP.

    hydranet serve
    curl -F file=@photo.jpg http://127.0.0.1:8501/v1/faces

answers with a row a face, as `hydranet predict --output=faces.jsonl` writes them.
Cropped faces are taken as TensorFlow Serving takes them, at /v1/models/NAME:predict.
/docs describes all requests; /healthz and /readyz are for whoever watches the service.
There is no password and no encryption: other machines reach it through a proxy that has
both.
The predictions estimate what annotators saw in pictures. They are not facts about a
person.
"""

from __future__ import annotations

from absl import app, flags

flags.DEFINE_string("model", None, "As for predict; else the released network.")
flags.DEFINE_string(
    "name", "hydranet", "Name of the model in the paths of predict requests."
)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.")
flags.DEFINE_integer("port", 8501, "Port to listen on; 0 takes a free one.", 0, 65535)
flags.DEFINE_integer(
    "workers", None, "Processes that serve; by default one a core, at least 2.", 1
)
flags.DEFINE_integer("threads", 2, "Pictures that a worker reads at once.", 1)
flags.DEFINE_float("max_body_mb", 32, "Largest request, in megabytes.", 0.001)
flags.DEFINE_float(
    "max_received_mb",
    512,
    "Largest sum of the requests that a worker is receiving, in megabytes.",
    0.001,
)
flags.DEFINE_integer("max_pictures", 32, "Most pictures in a request.", 1)
flags.DEFINE_integer(
    "max_requests", 64, "Most requests at once of a worker; more are refused.", 1
)
flags.DEFINE_float(
    "body_seconds", 30, "Seconds in which a whole request must have arrived.", 0.001
)
_SETTINGS = ("model", "name", "threads", "max_body_mb", "max_received_mb",
             "max_pictures", "max_requests", "body_seconds")  # fmt: skip


def main(arguments: list[str]) -> None:
    """Answers until it is stopped."""
    if arguments:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments)}")
    # Imported here so that --help and a wrong flag answer at once.
    from hydranet_tf.serving import app as service

    given = flags.FLAGS
    settings = service.Settings(**{name: given[name].value for name in _SETTINGS})
    service.serve(settings, given.host, given.port, given.workers)
