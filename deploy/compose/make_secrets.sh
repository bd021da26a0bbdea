#!/usr/bin/env bash
# Random secrets for docker-compose.yml, once: what is there already is kept.
#
#   deploy/compose/make_secrets.sh            writes deploy/compose/secrets/ and prints the client's key
#
# Put a model hub's token into secrets/vllm.env by hand: HF_TOKEN=...
set -euo pipefail

folder=${1:-"$(dirname "$0")/secrets"}
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { # keep FILE MODE: standard input becomes FILE unless it is there
    if [ -e "$folder/$1" ]; then cat >/dev/null; else cat >"$folder/$1"; fi
    chmod "$2" "$folder/$1"
}

vllm=$(random)
database=$(random)
metrics=$(random)
if [ -e "$folder/upshift.env" ]; then
    echo "kept: $folder"
    exit 0
fi
# 0644: mounted into a container whose user is another one; the folder itself is closed.
printf '%s' "$metrics" | keep metrics_key 644
printf 'VLLM_API_KEY=%s\n' "$vllm" | keep vllm.env 600
printf 'POSTGRES_USER=upshift\nPOSTGRES_DB=upshift\nPOSTGRES_PASSWORD=%s\n' "$database" | keep postgres.env 600
printf 'GF_SECURITY_ADMIN_PASSWORD=%s\n' "$(random)" | keep grafana.env 600
printf 'UPSHIFT_API_KEYS=sk-%s\nUPSHIFT_ADMIN_KEYS=sk-%s\nUPSHIFT_METRICS_KEY=%s\nVLLM_API_KEY=%s\nPGPASSWORD=%s\n' \
    "$(random)" "$(random)" "$metrics" "$vllm" "$database" | keep upshift.env 600
echo "written: $folder; clients' key: $(sed -n 's/^UPSHIFT_API_KEYS=//p' "$folder/upshift.env")"
