#!/usr/bin/env bash
# Known vulnerabilities of the pinned dependencies, by pip-audit in an environment of its own (it would bring thirty
# packages into ours). Exit 1 when there is one. Where PyPI's advisories cannot be had (a mirror without them, no
# network) it says so and exits 0.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${UPSHIFT_CACHE_DIR:-.cache}/audit-venv"
if [ ! -x "$folder/bin/pip-audit" ]; then
    "${PYTHON:-python3}" -m venv "$folder" && timeout 180 "$folder/bin/pip" install -q pip-audit==2.9.0 >/dev/null 2>&1 ||
        { echo "audit: skipped, pip-audit cannot be installed here"; rm -rf "$folder"; exit 0; }
fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
timeout 180 "$folder/bin/pip-audit" --disable-pip --no-deps --timeout 10 --format json \
    --requirement requirements/constraints.txt >"$report" 2>/dev/null || true
"$folder/bin/python" - "$report" <<'PYTHON'
import json
import sys

try:
    found = json.load(open(sys.argv[1]))["dependencies"]
except (ValueError, KeyError):
    sys.exit(print("audit: skipped, PyPI's advisories cannot be reached"))
asked = [item for item in found if "skip_reason" not in item]
bad = [(item["name"], item["version"], entry) for item in asked for entry in item["vulns"]]
if not asked:
    sys.exit(print("audit: skipped, this package index has no advisories"))
for name, version, entry in bad:
    print(f"{name} {version}: {entry['id']}, mended in {', '.join(entry['fix_versions']) or 'no version yet'}")
print(f"audit: {len(asked)} of {len(found)} pins looked up, {len(bad)} vulnerabilities")
sys.exit(1 if bad else 0)
PYTHON
