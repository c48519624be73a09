# Ascend image (310, 310P, 910): the CPU image's code on an image with CANN. Not run by us on a device.
#   docker build -f configs/deploy/docker/ascend.Dockerfile -t metric-learn-serving:ascend310 \
#     --build-arg CANN_IMAGE=registry.example.com/cann-nnae:6.3.RC2-ubuntu20.04 .
# CANN_IMAGE: Debian-like or RPM-like with glibc 2.31 or newer, holding /usr/local/Ascend/{nnae,ascend-toolkit}/latest.
# MindSpore 2.0.0 checks for CANN 6.3, for which Huawei publishes packages, not images, so there is no default.

# CANN images come without the server's Python and without a 3.9 whose libpython is shared, so both are brought along, with
# the libraries they need. bullseye: what is built against its glibc 2.31 runs on every newer one. Its images get no updates
# any more: where the CANN image's glibc is 2.36 or newer, give python:3.13-slim-bookworm and python:3.9-slim-bookworm.
ARG PYTHON_IMAGE=python:3.13-slim-bullseye
ARG ENGINE_IMAGE=python:3.9-slim-bullseye
ARG CANN_IMAGE

FROM ${ENGINE_IMAGE} AS engine
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# gcc: the client package compiles its resize kernel.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# /opt/python/extra: every library of Python's own modules that is not part of glibc.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN mkdir -p /opt/python/extra && cp -a /usr/local /opt/python/engine \
    && ldd /opt/python/engine/lib/python3*/lib-dynload/*.so \
        | awk '$2 == "=>" && $3 ~ /^\// && $1 !~ /^(libc|libm|libdl|librt|libutil|libpthread|libresolv|libnsl|libpython3[.0-9]*)\.so/ {print $3}' \
        | sort -u | xargs -I LIBRARY cp -L LIBRARY /opt/python/extra/ \
    && /opt/python/engine/bin/python3 -m venv /opt/venv/engine
# What CANN's operator compiler imports in the worker's interpreter.
COPY servable/engine/requirements-ascend.* servable/engine/
RUN /opt/venv/engine/bin/python -m pip install --no-deps --require-hashes -r servable/engine/requirements-ascend.txt
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
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN mkdir -p /opt/python/extra && cp -a /usr/local /opt/python/server \
    && ldd /opt/python/server/lib/python3*/lib-dynload/*.so \
        | awk '$2 == "=>" && $3 ~ /^\// && $1 !~ /^(libc|libm|libdl|librt|libutil|libpthread|libresolv|libnsl|libpython3[.0-9]*)\.so/ {print $3}' \
        | sort -u | xargs -I LIBRARY cp -L LIBRARY /opt/python/extra/ \
    && /opt/python/server/bin/python3 -m venv /opt/venv/server
COPY servable/requirements.txt servable/requirements.txt
RUN /opt/venv/server/bin/python -m pip install --no-deps --require-hashes -r servable/requirements.txt
COPY client client
RUN /opt/venv/server/bin/python -m pip install --no-deps --no-build-isolation ./client \
    && rm -r client
COPY servable servable
COPY configs/*.yaml configs/
RUN /opt/venv/server/bin/python -m compileall -q servable

FROM ${CANN_IMAGE} AS runtime
USER 0:0
# libgomp: MindSpore Lite. procps: MindSpore Serving calls `ps` to end its workers' children.
# hadolint ignore=DL3032
RUN if command -v apt-get; then \
        apt-get update && apt-get install -y --no-install-recommends libgomp1 procps && rm -rf /var/lib/apt/lists/*; \
    else \
        yum install -y libgomp procps-ng && yum clean all; \
    fi
RUN groupadd --gid 10001 metric-learn-serving \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/metric-learn-serving metric-learn-serving \
    && install -d -m 0755 /etc/metric-learn-serving /var/lib/metric-learn-serving/models \
    && install -d -m 0700 -o 10001 -g 10001 /run/metric-learn-serving /var/cache/metric-learn-serving
COPY --from=engine /usr/bin/tini-static /usr/local/bin/tini
COPY --from=engine /opt/python /opt/python
COPY --from=engine /opt/venv /opt/venv
COPY --from=engine /app /app
COPY --from=build /opt/python /opt/python
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# Both Pythons are linked against their libpython, and MindSpore Serving loads libpython3.9.so.1.0 by this name.
RUN printf '/opt/python/%s/lib\n' engine server > /etc/ld.so.conf.d/metric-learn-serving.conf && ldconfig
COPY --chmod=0755 configs/deploy/docker/ascend-entrypoint.sh /usr/local/bin/ascend-entrypoint
COPY configs/deploy/server-ascend310.yaml /etc/metric-learn-serving/server.yaml
# The driver comes from the host: by Ascend Docker Runtime, or mounted at /usr/local/Ascend/driver.
ENV PATH=/opt/venv/server/bin:$PATH \
    HOME=/var/cache/metric-learn-serving \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1
WORKDIR /app
# The device nodes belong to the host's group HwHiAiUser: run with --group-add "$(getent group HwHiAiUser | cut -d: -f3)".
USER 10001:10001
EXPOSE 5500 5501 5502
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["/opt/venv/server/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5501/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/tini", "--", "/usr/local/bin/ascend-entrypoint"]
CMD ["--config", "/etc/metric-learn-serving/server.yaml"]
