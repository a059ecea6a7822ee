#!/bin/sh
# Installs what a study needs into an image, as root: git, and the packages of constraints.txt in /opt/venv.
# The Dockerfile and the Apptainer recipe run it in a folder that contains pyproject.toml and constraints.txt.
#   install.sh TORCH EXTRAS     TORCH: the build of torch, cuda or cpu; EXTRAS: extras of pyproject.toml, separated by commas
set -eu
case "$1" in
cuda) ;;
cpu) export PIP_EXTRA_INDEX_URL="https://download.pytorch.org/whl/cpu ${PIP_EXTRA_INDEX_URL:-}" ;;
*)
    echo "install.sh: TORCH must be cuda or cpu (got '$1')" >&2
    exit 1
    ;;
esac

# DVC, provenance records and the source archive of Kubernetes jobs need git. python:slim has no Debian package of Python.
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates git
rm -rf /var/lib/apt/lists/*
# A mounted checkout may belong to another user.
git config --system --add safe.directory '*'

python3 -m venv /opt/venv
# pip can read dependencies only from a package, so this installs an empty package and removes it again. The code itself comes
# with the checkout, at run time.
mkdir -p pipeline
touch pipeline/__init__.py
/opt/venv/bin/pip install --no-cache-dir --constraint constraints.txt ".[$2]"
/opt/venv/bin/pip uninstall --yes adapter-studies
rm -rf pipeline build ./*.egg-info
# Pods of snakemake's Kubernetes executor install the storage plugin again; with this wheel they need no network access.
/opt/venv/bin/pip download --no-cache-dir --no-deps --constraint constraints.txt --dest /opt/wheels snakemake-storage-plugin-s3
