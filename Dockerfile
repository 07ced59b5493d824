# syntax=docker/dockerfile:1
# The service in a container: an unprivileged user, nothing but /tmp to write to, a health check.
#   docker build -t refineseg .                        on processors
#   docker build -t refineseg:cuda --target cuda .     on NVIDIA graphics cards
# PyTorch's default wheels for Linux bring CUDA. For a small image on processors, name PyTorch's index of CPU wheels (its
# installation page has it): --build-arg TORCH_INDEX=https://...

FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/refineseg
ENV PATH=/opt/refineseg/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
# pyproject.toml has the ranges of versions:
# hadolint ignore=DL3013
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY packages ./packages
# constraints.txt has the versions; PyTorch of an index of its own is what that gave
RUN if [ -n "$TORCH_INDEX" ]; then grep -v '^torch' constraints.txt > pinned.txt; else cp constraints.txt pinned.txt; fi \
    && pip install -c pinned.txt '.[serve,openvino,vectors]' ./packages/weights

FROM python:3.12-slim-bookworm AS base
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin refineseg
COPY --from=build /opt/refineseg /opt/refineseg
ENV PATH=/opt/refineseg/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp MPLCONFIGDIR=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["refineseg", "serve", "--host", "0.0.0.0"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["--device", "cuda", "--backend", "torch"]

FROM base AS cpu
CMD ["--device", "cpu", "--backend", "auto"]
