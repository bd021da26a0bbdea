# The trainer and the embedded pair: everything the proxy has, and torch.
#
#   docker build -f deploy/docker/trainer.Dockerfile -t upshift-trainer .        --build-arg TORCH=gpu for CUDA, EXTRAS=ray for Ray
#   docker run -v $PWD:/data upshift-trainer upshift fit --examples answers.parquet --weak A --strong B --out bundle
FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UPSHIFT_TORCH=$TORCH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY deploy/install_torch.sh deploy/install_torch.sh
RUN python -m venv /opt/upshift
RUN deploy/install_torch.sh /opt/upshift/bin/python
COPY proxy proxy
COPY routing routing
COPY scorers scorers
COPY trainer trainer
COPY demo demo
RUN /opt/upshift/bin/python -m pip install --constraint requirements/constraints.txt ".[train,demo${EXTRAS:+,$EXTRAS}]"

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 upshift && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin upshift
COPY --from=build /opt/upshift /opt/upshift
COPY demo /data/demo
ENV PATH=/opt/upshift/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HOME=/tmp
USER 10001:10001
WORKDIR /data
CMD ["upshift", "--help"]
