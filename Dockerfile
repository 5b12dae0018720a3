# Inference alone, without torch: native runtime, numpy, Pillow.
#   docker build -t intvit .
#   docker run --rm -v "$PWD:/data:ro" intvit run integer photo.jpg
FROM python:3.13-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in constraints.txt README.md LICENSE train.py evaluate.py ./
COPY conf conf
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
COPY constraints.txt /tmp/
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c /tmp/constraints.txt /wheels/*.whl && useradd --create-home --uid 1000 intvit
USER 1000
WORKDIR /data
ENTRYPOINT ["intvit"]
CMD ["--help"]
