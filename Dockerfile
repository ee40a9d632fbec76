# docker build --tag dist_rec .                 for CPUs; --build-arg TORCH_INDEX=URL takes torch from an index of CPU builds
# docker build --tag dist_rec --target cuda .   for NVIDIA GPUs; run it with --gpus all
FROM debian:trixie-slim AS checkout
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /dist_rec
ENV PATH=/dist_rec/.venv/bin:$PATH PIP_NO_CACHE_DIR=1
COPY . .

FROM checkout AS cuda
RUN ACCELERATOR=cuda launch/install.sh

FROM checkout AS cpu
ARG TORCH_INDEX
RUN ACCELERATOR=cpu launch/install.sh
