# docker build -t normcli . && docker run --rm -v "$PWD:/data" normcli stats photos
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
# extras of normcli, such as --build-arg EXTRAS=tiff,parquet
ARG EXTRAS=tiff
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir "$(echo /wheels/normcli-*.whl)[$EXTRAS]" \
    && useradd --create-home --uid 1000 normcli
USER 1000
WORKDIR /data
ENTRYPOINT ["normcli"]
CMD ["--help"]
