# CPU image. From the repository's top folder:
#   docker build -f configs/deploy/docker/cpu.Dockerfile -t metric-learn-serving:cpu .
# Models are mounted at /var/lib/metric-learn-serving/models; see configs/deploy/README.md.

# Two Pythons of one Debian: that of the server, and a 3.9 with a shared libpython for MindSpore Serving 2.0.2.
# For builds that can be repeated give both with their digests: --build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm
ARG ENGINE_IMAGE=python:3.9-slim-bookworm

FROM ${ENGINE_IMAGE} AS engine
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# gcc: the client package compiles its resize kernel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# A place of its own, for the server's Python has /usr/local.
RUN mkdir /opt/python && cp -a /usr/local /opt/python/engine \
    && /opt/python/engine/bin/python3.9 -m venv /opt/venv/engine
# --no-deps: the lock is complete, and mindspore-serving 2.0.2 asks for a grpcio that its server never imports.
COPY servable/engine/requirements.txt servable/engine/requirements.txt
RUN /opt/venv/engine/bin/python -m pip install --no-deps --require-hashes -r servable/engine/requirements.txt
# 0.5 GB that changes with lite_runtime.py alone, so before the rest of the code.
COPY servable/__init__.py servable/
COPY servable/runtime/__init__.py servable/runtime/lite_runtime.py servable/runtime/
RUN /opt/venv/engine/bin/python -m servable.runtime.lite_runtime
COPY client client
RUN /opt/venv/engine/bin/python -m pip install --no-deps --no-build-isolation ./client \
    && rm -r client
COPY servable servable
# The image's file system may be mounted read-only, and its user owns none of it: byte code is made here.
RUN /opt/venv/engine/bin/python -m compileall -q servable/__init__.py servable/engine servable/metric_learn

FROM ${PYTHON_IMAGE} AS build
# METRIC_LEARN_PURE: no resize kernel, for the server prepares no picture.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 METRIC_LEARN_PURE=1
WORKDIR /app
RUN python -m venv /opt/venv/server
COPY servable/requirements.txt servable/requirements.txt
RUN /opt/venv/server/bin/python -m pip install --no-deps --require-hashes -r servable/requirements.txt
COPY client client
RUN /opt/venv/server/bin/python -m pip install --no-deps --no-build-isolation ./client \
    && rm -r client
COPY servable servable
COPY configs/*.yaml configs/
RUN /opt/venv/server/bin/python -m compileall -q servable

FROM ${PYTHON_IMAGE} AS runtime
# libgomp1: MindSpore Lite. procps: MindSpore Serving calls `ps` to end its workers' children. tini: the first process
# must collect the workers that outlive a MindSpore Serving which was killed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 procps tini \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --user-group --home-dir /nonexistent metric-learn-serving \
    && install -d -m 0755 /etc/metric-learn-serving /var/lib/metric-learn-serving/models \
    && install -d -m 0700 -o 10001 -g 10001 /run/metric-learn-serving
COPY --from=engine /opt/python /opt/python
COPY --from=engine /opt/venv /opt/venv
COPY --from=engine /app /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# MindSpore Serving loads libpython3.9.so.1.0 by this name.
RUN echo /opt/python/engine/lib > /etc/ld.so.conf.d/metric-learn-serving.conf && ldconfig
COPY configs/deploy/server-cpu.yaml /etc/metric-learn-serving/server.yaml
ENV PATH=/opt/venv/server/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1
WORKDIR /app
USER 10001:10001
EXPOSE 5500 5501 5502
# Kubernetes ignores this and uses its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5501/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "python", "-m", "servable.serving_server"]
CMD ["--config", "/etc/metric-learn-serving/server.yaml"]
