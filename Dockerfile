# Images of tfpipe; docs/containers.md says how to build and run each.
#
#   docker build --target serve -t tfpipe-serve .            the service, on CPUs; no TensorFlow, no compiler
#   docker build --target serve-gpu -t tfpipe-serve-gpu .    ... on NVIDIA GPUs
#   docker build --target train -t tfpipe-train .            training and conversion, Horovod with Gloo
#   docker build --target mlflow -t tfpipe-mlflow .          a tracking server that keeps its data in PostgreSQL and S3
#
# Bases are named by version here alone. Everything else comes from PyPI and the base's own package index, by the pins of constraints/.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# ONNX Runtime for GPUs wants CUDA 13 and cuDNN 9.
ARG SERVE_GPU_IMAGE=nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
# What training is built on, and what it runs on: with NCCL, bases that have its headers and its library.
ARG TRAIN_BUILD_IMAGE=${PYTHON_IMAGE}
ARG TRAIN_IMAGE=${PYTHON_IMAGE}

FROM ${PYTHON_IMAGE} AS uv
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9

# ---- the service ----

FROM ${PYTHON_IMAGE} AS serve-build
COPY --from=uv /usr/local/bin/uv /usr/local/bin/uv
# Certificates are the base's, to which a company's own may have been added.
ENV UV_SYSTEM_CERTS=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/tfpipe PATH=/opt/tfpipe/bin:$PATH
WORKDIR /src
RUN uv venv --python python3 "$VIRTUAL_ENV"
# What the project needs changes less often than the project.
COPY pyproject.toml constraints/serve.txt constraints/serve-image-excludes.txt ./
RUN uv pip install --requirement pyproject.toml --extra serve --constraint serve.txt --excludes serve-image-excludes.txt \
    # Tests, headers, quantisers, and ONNX Runtime a second time, for programs in C: a fifth of it all.
    && packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && rm -r "$packages/onnxruntime/quantization" "$packages/onnxruntime/tools" "$packages/onnxruntime/transformers" \
        "$packages"/onnxruntime/capi/libonnxruntime.so.* \
    && find "$packages" -type d -name tests -prune -exec rm -r {} + \
    && find "$packages" -type f '(' -name '*.pyi' -o -name '*.h' -o -name '*.a' ')' -delete
COPY README.md ./
COPY tfpipe tfpipe
COPY serving serving
RUN uv pip install --no-deps .
WORKDIR /
# Bytecode of what the service imports, as it cannot be written to a root that is read-only; that of all else is 50 MB.
RUN python -c "import serving.__main__, serving.child_main, serving.v2.grpc_server, serving.keys_command, tfpipe.registry, tfpipe.tune" \
    && python -c "from tfpipe.store import connect; connect('http://127.0.0.1')" \
    && python -m compileall -q /opt/tfpipe/lib/python3*/site-packages/serving

# The base without package managers and their lists, which are of no use to who runs the service, and of some to who breaks in.
FROM ${PYTHON_IMAGE} AS serve-root
# Group 0 may write to the cache, for platforms that choose the user by themselves.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /var/cache/tfpipe --shell /usr/sbin/nologin tfpipe \
    && install --directory --owner 10001 --group 0 --mode 0770 /var/cache/tfpipe \
    && rm -rf /usr/local/lib/python3*/site-packages/* /usr/lib/python3/dist-packages/* /usr/share/python-wheels /usr/local/bin/pip* /usr/bin/pip* \
        /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /root/.cache /tmp/*

FROM scratch AS serve
# hadolint ignore=DL3067
COPY --from=serve-root / /
COPY --from=serve-build /opt/tfpipe /opt/tfpipe
ENV PATH=/opt/tfpipe/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/var/cache/tfpipe \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GIT_PYTHON_REFRESH=quiet ORT_DISABLE_TELEMETRY=1 \
    TFPIPE_SERVING_HOST=0.0.0.0 TFPIPE_SERVING_CACHE_DIR=/var/cache/tfpipe
# Bundles of the registry, and what was tuned. The only folder that is written to: the root may be read-only.
VOLUME /var/cache/tfpipe
WORKDIR /var/cache/tfpipe
USER 10001:0
EXPOSE 8000
# Ready, not only alive: a bundle of some size takes its time to be fetched and proved.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "serving.healthcheck"]
# Drains, as SIGINT does; what is cut off sooner than TFPIPE_SERVING_DRAIN_MS is not answered.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "serving"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tfpipe-serve" \
      org.opencontainers.image.description="The service of tfpipe: a converted model over HTTP and gRPC, on ONNX Runtime." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- the service on GPUs ----

FROM ${SERVE_GPU_IMAGE} AS serve-gpu-build
COPY --from=uv /usr/local/bin/uv /usr/local/bin/uv
ENV UV_SYSTEM_CERTS=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/tfpipe PATH=/opt/tfpipe/bin:$PATH
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN uv venv --python python3 "$VIRTUAL_ENV"
COPY pyproject.toml constraints/serve.txt constraints/serve-image-excludes.txt ./
RUN uv pip install --requirement pyproject.toml --extra serve-gpu --constraint serve.txt --excludes serve-image-excludes.txt
COPY README.md ./
COPY tfpipe tfpipe
COPY serving serving
RUN uv pip install --no-deps . && python -m compileall -q "$VIRTUAL_ENV"

FROM ${SERVE_GPU_IMAGE} AS serve-gpu
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --gid 0 --no-create-home --home-dir /var/cache/tfpipe --shell /usr/sbin/nologin tfpipe \
    && install --directory --owner 10001 --group 0 --mode 0770 /var/cache/tfpipe
COPY --from=serve-gpu-build /opt/tfpipe /opt/tfpipe
ENV PATH=/opt/tfpipe/bin:$PATH LANG=C.UTF-8 HOME=/var/cache/tfpipe \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GIT_PYTHON_REFRESH=quiet ORT_DISABLE_TELEMETRY=1 \
    TFPIPE_SERVING_HOST=0.0.0.0 TFPIPE_SERVING_CACHE_DIR=/var/cache/tfpipe
VOLUME /var/cache/tfpipe
WORKDIR /var/cache/tfpipe
USER 10001:0
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 CMD ["python", "-m", "serving.healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "serving"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tfpipe-serve-gpu" \
      org.opencontainers.image.description="The service of tfpipe on NVIDIA GPUs: a converted model over HTTP and gRPC, on ONNX Runtime." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- training and conversion ----

FROM ${TRAIN_BUILD_IMAGE} AS train-build
COPY --from=uv /usr/local/bin/uv /usr/local/bin/uv
ENV UV_SYSTEM_CERTS=1 UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/tfpipe PATH=/opt/tfpipe/bin:$PATH
# Horovod is compiled against this Python, whose headers a distribution's own does not have by itself.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make \
    && { python3 -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' 2>&1 \
        || apt-get install --yes --no-install-recommends python3 python3-dev; } \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN uv venv --python python3 "$VIRTUAL_ENV"
COPY pyproject.toml constraints/train.txt ./
# With NCCL: EXTRAS="--extra train --extra train-gpu", HOROVOD_GPU_OPERATIONS=NCCL, and bases that hold it.
ARG EXTRAS="--extra train"
ARG HOROVOD_GPU_OPERATIONS=
RUN if [ -n "$HOROVOD_GPU_OPERATIONS" ]; then export HOROVOD_GPU_OPERATIONS; else unset HOROVOD_GPU_OPERATIONS; fi \
    && uv pip install --requirement pyproject.toml $EXTRAS --extra horovod --extra convert --extra serve --constraint train.txt \
    && python -c 'import horovod.tensorflow as hvd; hvd.gloo_built() or exit("Horovod was built without Gloo")'
COPY README.md ./
COPY tfpipe tfpipe
# Conversion asks the service too, to prove that its answers are Keras's.
COPY serving serving
COPY configs configs
RUN uv pip install --no-deps . && { python -m compileall -qq -j 0 "$VIRTUAL_ENV" || true; }
# The package has them too; here they are easily named.
COPY configs /opt/tfpipe/configs

FROM ${TRAIN_IMAGE} AS train
# Workers on other machines are started over ssh.
RUN apt-get update && apt-get install --yes --no-install-recommends openssh-client openssh-server \
    && { command -v python3 >/dev/null || apt-get install --yes --no-install-recommends python3; } \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && useradd --uid 10001 --create-home tfpipe \
    && install --directory --owner 10001 --group 10001 /data
COPY --from=train-build /opt/tfpipe /opt/tfpipe
COPY horovod /opt/tfpipe/horovod
ENV PATH=/opt/tfpipe/bin:$PATH LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TF_CPP_MIN_LOG_LEVEL=3 GIT_PYTHON_REFRESH=quiet ORT_DISABLE_TELEMETRY=1
# Where a run keeps what it makes; the root may be read-only.
VOLUME /data
WORKDIR /data
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["tfpipe"]
CMD ["--help"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tfpipe-train" \
      org.opencontainers.image.description="Training and conversion of tfpipe: TensorFlow, Keras, Horovod, MLflow, ONNX." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- the tracking server ----

FROM ${PYTHON_IMAGE} AS mlflow-build
COPY --from=uv /usr/local/bin/uv /usr/local/bin/uv
ENV UV_SYSTEM_CERTS=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/mlflow
WORKDIR /src
RUN uv venv --python python3 "$VIRTUAL_ENV"
COPY constraints/mlflow.txt ./
RUN uv pip install --constraint mlflow.txt mlflow psycopg2-binary boto3

FROM ${PYTHON_IMAGE} AS mlflow
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mlflow
COPY --from=mlflow-build /opt/mlflow /opt/mlflow
ENV PATH=/opt/mlflow/bin:$PATH LANG=C.UTF-8 HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
WORKDIR /tmp
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["mlflow"]
CMD ["server", "--host", "0.0.0.0"]
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tfpipe-mlflow" \
      org.opencontainers.image.description="MLflow's tracking server with the clients of PostgreSQL and S3." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
