# Two images from one file:
#
#   docker build --target free -t mslesseg:free .   no FSL (engine builtin), torch for CPUs
#   docker build -t mslesseg .                      FSL's flirt and bet, torch for NVIDIA GPUs
#
# FSL's licence forbids commercial use without an agreement with its owners; the image
# `free` has none of it. Behind a firewall give your own mirrors as build arguments.

ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG CONDA_IMAGE=mambaorg/micromamba:1.5.8

# ---------------------------------------------------------------- sources and a bare venv
FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY heuristics heuristics
COPY mslesseg_app/__init__.py mslesseg_app/__init__.py
RUN python3 -m venv /opt/venv \
    && python3 -c 'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])' > /opt/pins \
    && /opt/venv/bin/pip install --quiet --no-cache-dir --upgrade -c "$(cat /opt/pins)" pip

# ------------------------------------- libraries first, so that our own changes are cheap
FROM build AS venv-cpu
ARG PIP_INDEX_URL=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/venv/bin/pip install --quiet --no-cache-dir -c "$(cat /opt/pins)" \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .
COPY mslesseg_app mslesseg_app
RUN /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps --force-reinstall .

FROM build AS venv-cuda
ARG PIP_INDEX_URL=
ARG TORCH_CUDA_INDEX=
RUN /opt/venv/bin/pip install --quiet --no-cache-dir -c "$(cat /opt/pins)" \
        ${TORCH_CUDA_INDEX:+--extra-index-url "$TORCH_CUDA_INDEX"} .
COPY mslesseg_app mslesseg_app
RUN /opt/venv/bin/pip install --quiet --no-cache-dir --no-deps --force-reinstall .

# ------------------------------------------------------- what both images have in common
FROM ${BASE_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    HOME=/home/mslesseg \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    MPLBACKEND=Agg \
    PYTHONNOUSERSITE=1 \
    PYTHONUNBUFFERED=1 \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=0 \
    NO_ET=1
# Any user id may run the image (docker run -u), so the home belongs to everybody.
RUN useradd --uid 1000 --home-dir "$HOME" --create-home mslesseg \
    && chmod 1777 "$HOME" \
    && mkdir -p "$TEMPLATEFLOW_HOME"
WORKDIR /tmp
LABEL org.opencontainers.image.title="mslesseg" \
      org.opencontainers.image.description="BIDS App: multiple-sclerosis lesions in brain MRI" \
      org.opencontainers.image.licenses="Apache-2.0"

# ------------------------------------------------------------------------------ no FSL
FROM runtime AS free
ARG IMAGE_TAG=mslesseg:free
ENV MSLESSEG_DOCKER_TAG=${IMAGE_TAG}
COPY --from=venv-cpu /opt/venv /opt/venv
RUN mslesseg --version
USER 1000:1000
ENTRYPOINT ["mslesseg"]
CMD ["--help"]

# --------------------------------------------------- flirt, bet2, avwutils, standard data
FROM ${CONDA_IMAGE} AS fsl
ARG FSL_CHANNEL=https://fsl.fmrib.ox.ac.uk/fsldownloads/fslconda/public/
ARG CONDA_CHANNEL=conda-forge
ARG FSL_PACKAGES="fsl-flirt=2111.4 fsl-bet2=2111.8 fsl-avwutils fsl-data_standard"
USER 0:0
# shellcheck disable=SC2086
RUN micromamba create --yes --quiet --prefix /opt/fsl \
        --channel "$FSL_CHANNEL" --channel "$CONDA_CHANNEL" $FSL_PACKAGES \
    && micromamba clean --all --yes \
    && rm -rf /opt/fsl/include
USER 1000:1000

# --------------------------------------------------------------------- FSL, CUDA: the last
FROM runtime AS full
ARG IMAGE_TAG=mslesseg:full
ENV MSLESSEG_DOCKER_TAG=${IMAGE_TAG} \
    FSLDIR=/opt/fsl \
    FSLOUTPUTTYPE=NIFTI_GZ \
    PATH=/opt/venv/bin:$PATH:/opt/fsl/bin \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-FSL"
COPY --from=fsl /opt/fsl /opt/fsl
COPY --from=venv-cuda /opt/venv /opt/venv
RUN mslesseg --version \
    && printf '%s\n' \
        'This image holds parts of FSL, (c) University of Oxford. They may be used for' \
        'non-commercial purposes only; see the licence at fsl.fmrib.ox.ac.uk/fsl/docs/license.html.' \
        > /opt/fsl/NOTICE
USER 1000:1000
ENTRYPOINT ["mslesseg"]
CMD ["--help"]
