#!/usr/bin/env bash
# The embedded default from nothing: two language models, their judged answers, the scorers fitted on them.
# About an hour on two cores; the results are what stands in demo/models and demo/bundle.
#
#   demo/build.sh [WORK]      WORK keeps the answer tables (default: .cache/demo)
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${1:-.cache/demo}
PYTHON=.venv/bin/python
UPSHIFT=.venv/bin/upshift

$PYTHON -m demo.train --out demo/models                           # weak and strong, on prompts of the train split
$PYTHON -m demo.answers --out "$WORK" --prompts 4000              # fit, calibrate and test: unseen by the models

$UPSHIFT fit --examples "$WORK/fit.parquet" --calibration-examples "$WORK/calibrate.parquet" \
    --weak demo-phi --strong demo-mistral --out demo/bundle --max-minutes 6 --quality 0.975

$UPSHIFT evaluate demo/bundle --examples "$WORK/test.parquet" --out "$WORK/report"
