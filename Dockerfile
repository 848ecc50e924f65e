# `hydranet serve` with the released network: the small installation, no TensorFlow.
#
#   docker build --tag hydranet .
#   docker run --rm --publish 127.0.0.1:8501:8501 hydranet
#   docker run --rm --volume "$PWD:/photos:ro" hydranet predict /photos
FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[serve,heic]" \
    && useradd --uid 10001 --create-home hydranet
USER 10001
WORKDIR /home/hydranet
EXPOSE 8501
HEALTHCHECK --start-period=30s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/readyz', timeout=5)"]
ENTRYPOINT ["hydranet"]
# Inside the container alone: what it is published to says docker run.
CMD ["serve", "--host=0.0.0.0"]
