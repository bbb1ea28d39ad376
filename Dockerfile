# Two images from one file:
#
#   docker build --target free -t mslesseg:free .   no FSL (engine builtin), torch for CPUs
#   docker build -t mslesseg .                      FSL's flirt and bet, torch for NVIDIA GPUs
#
# FSL's licence forbids commercial use without an agreement with its owners; the image
# `free` has none of it. Behind a firewall give your own mirrors as build arguments, and
# your pip.conf and certificates as secrets, which stay out of the image:
#
#   docker build --secret id=pip,src=pip.conf --secret id=ca,src=ca.pem ...
#
# (pip.conf then says `cert = /run/secrets/ca`.)
#
# --build-arg ENGINES="nnunet mindglide" adds programs of others, without their weights
# (nnunet, lst-ai, mindglide, samseg; docs/engines.md).

ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG CONDA_IMAGE=mambaorg/micromamba:1.5.8

# ------------------------------- what is needed, apart from all else that a project states
FROM ${BASE_IMAGE} AS requirements
WORKDIR /opt/src
COPY pyproject.toml ./
COPY constraints constraints
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > /opt/requirements.txt \
    && cp "$(python3 -c 'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])')" /opt/pins.txt

# ------------------------------------------------------------------------- a bare venv
FROM ${BASE_IMAGE} AS venv
ARG PIP_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_PROGRESS_BAR=off
COPY --from=requirements /opt/requirements.txt /opt/pins.txt /opt/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --quiet --upgrade -c /opt/pins.txt pip

# ------------------------------------- libraries first, so that our own changes are cheap
# Headers of torch and tests of others, 0.3 GB, are of no use here.
FROM venv AS libraries-cpu
ARG PIP_INDEX_URL=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/venv/bin/pip install --quiet -c /opt/pins.txt -r /opt/requirements.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/test \
        /opt/venv/lib/python3*/site-packages/torch/include \
        /opt/venv/lib/python3*/site-packages/torch/bin/*[Tt]est* \
        /opt/venv/lib/python3*/site-packages/torch/bin/protoc* \
        /opt/venv/lib/python3*/site-packages/pandas/tests
ARG ENGINES=
COPY release/engines.sh /opt/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    sh /opt/engines.sh "$ENGINES" /opt/pins.txt "$TORCH_INDEX"

FROM venv AS libraries-cuda
ARG PIP_INDEX_URL=
ARG TORCH_CUDA_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/venv/bin/pip install --quiet -c /opt/pins.txt -r /opt/requirements.txt \
        ${TORCH_CUDA_INDEX:+--extra-index-url "$TORCH_CUDA_INDEX"} \
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/test \
        /opt/venv/lib/python3*/site-packages/torch/include \
        /opt/venv/lib/python3*/site-packages/torch/bin/*[Tt]est* \
        /opt/venv/lib/python3*/site-packages/torch/bin/protoc* \
        /opt/venv/lib/python3*/site-packages/pandas/tests
ARG ENGINES=
COPY release/engines.sh /opt/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    sh /opt/engines.sh "$ENGINES" /opt/pins.txt "$TORCH_CUDA_INDEX"

# ------------------------------------------------------------------ our wheel, with weights
FROM venv AS wheel
ARG PIP_INDEX_URL=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    /opt/venv/bin/pip install --quiet -c /opt/pins.txt hatchling
WORKDIR /opt/src
COPY pyproject.toml README.md LICENSE ./
COPY heuristics heuristics
COPY mslesseg_app mslesseg_app
RUN /opt/venv/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation -w /opt/dist .

# ------------------------------------------------------- what both images have in common
FROM ${BASE_IMAGE} AS runtime
ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    HOME=/home/mslesseg \
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
      org.opencontainers.image.description="BIDS App: multiple-sclerosis lesions in brain MRI; for research use only" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/opt/venv/bin/python", "-P", "-m", "mslesseg_app.deploy.container"]
CMD ["--help"]

# ------------------------------------------------------------------------------ no FSL
FROM runtime AS free
ARG IMAGE_TAG=mslesseg:free
ENV MSLESSEG_CONTAINER_TAG=${IMAGE_TAG}
COPY --from=libraries-cpu /opt/venv /opt/venv
COPY --from=libraries-cpu /opt/engines /opt/engines
RUN --mount=type=bind,from=wheel,source=/opt/dist,target=/mnt \
    export HOME=/root \
    && pip install --quiet --no-index --no-deps --no-cache-dir /mnt/*.whl \
    && pip check \
    && python -P -m mslesseg_app.deploy.container.selftest \
    && rm -rf /root/.cache /tmp/*
USER 1000:1000

# --------------------------------------------------- flirt, bet2, avwutils, standard data
# Versions: flirt, bet2 and avwutils as the lock file of fMRIPrep (pixi.lock, August 2025) has them
# resolved together from the same channel; data_standard as fMRIPrep pinned it when it used it.
# This project has no access to the channel, and has neither resolved nor run these packages;
# what it has run is FSL 6.0.0, built from source (docs/workflow.md).
# The self-test of `full` runs `bet -R` on an image, and ends the build if it fails.
FROM ${CONDA_IMAGE} AS fsl
ARG FSL_CHANNEL=https://fsl.fmrib.ox.ac.uk/fsldownloads/fslconda/public/
ARG CONDA_CHANNEL=conda-forge
ARG FSL_PACKAGES="fsl-flirt=2111.4 fsl-bet2=2111.8 fsl-avwutils=2209.3 fsl-data_standard=2208.0"
USER 0:0
# The licence files that the packages bring are kept beside the programs.
# hadolint ignore=SC2086
RUN micromamba create --yes --quiet --prefix /opt/fsl \
        --channel "$FSL_CHANNEL" --channel "$CONDA_CHANNEL" $FSL_PACKAGES \
    && mkdir -p /opt/fsl/licenses \
    && for package in "${MAMBA_ROOT_PREFIX:-/opt/conda}"/pkgs/*/info/licenses; do \
        [ ! -d "$package" ] || cp -r "$package" \
            "/opt/fsl/licenses/$(basename "$(dirname "$(dirname "$package")")")" || exit 1; \
    done \
    && micromamba clean --all --yes \
    && rm -rf /opt/fsl/include
USER 1000:1000

# --------------------------------------------------------------------- FSL, CUDA: the last
FROM runtime AS full
ARG IMAGE_TAG=mslesseg:full
ENV MSLESSEG_CONTAINER_TAG=${IMAGE_TAG} \
    MSLESSEG_NOTICE=/opt/fsl/NOTICE \
    FSLDIR=/opt/fsl \
    FSLOUTPUTTYPE=NIFTI_GZ \
    PATH=/opt/venv/bin:$PATH:/opt/fsl/bin \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
LABEL org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-FSL"
# `bet -R` computes with dc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends dc \
    && rm -rf /var/lib/apt/lists/*
COPY --from=fsl /opt/fsl /opt/fsl
COPY --from=libraries-cuda /opt/venv /opt/venv
COPY --from=libraries-cuda /opt/engines /opt/engines
# Said at every start (MSLESSEG_NOTICE).
RUN --mount=type=bind,from=wheel,source=/opt/dist,target=/mnt \
    export HOME=/root \
    && pip install --quiet --no-index --no-deps --no-cache-dir /mnt/*.whl \
    && pip check \
    && python -P -m mslesseg_app.deploy.container.selftest \
    && rm -rf /root/.cache /tmp/* \
    && printf '%s\n' \
        'This image holds parts of FSL, (c) University of Oxford, for non-commercial use only.' \
        'Licence: https://fsl.fmrib.ox.ac.uk/fsl/docs/license.html and /opt/fsl/licenses.' \
        > /opt/fsl/NOTICE \
    && cat /opt/fsl/NOTICE
USER 1000:1000
