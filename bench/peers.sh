#!/bin/bash
# Installs the servers that Upshift is measured beside, each into an environment of its own under .cache/peers.
# What cannot be had (no registry, no npm) is skipped with a word; `python -m bench hot_path` measures the rest.
set -u
cd "$(dirname "$0")/.." || exit 1
home=${UPSHIFT_CACHE_DIR:-.cache}/peers
python=${PYTHON:-python3}
mkdir -p "$home"

skip() { echo "skipped: $1 (the log: $home/$1.log)"; }

# venv NAME PACKAGES...: a virtual environment with exactly these, once
venv() {
    local name=$1; shift
    [ -e "$home/$name/.ready" ] && { echo "there: $name"; return; }
    { "$python" -m venv "$home/$name" && "$home/$name/bin/pip" install --quiet "$@" && touch "$home/$name/.ready"; } \
        >"$home/$name.log" 2>&1 && echo "installed: $name" || skip "$name"
}

# Portkey 1.15.2 with today's @hono/node-server answers every stream with a 500 ("immutable" headers), so an
# older one is put in its place.
install_portkey() {
    [ -e "$home/portkey/.ready" ] && { echo "there: portkey"; return; }
    mkdir -p "$home/portkey"
    echo '{"dependencies": {"@portkey-ai/gateway": "1.15.2"}, "overrides": {"@hono/node-server": "1.13.7"}}' \
        >"$home/portkey/package.json"
    { npm install --silent --no-audit --no-fund --prefix "$home/portkey" \
        && touch "$home/portkey/.ready"; } >"$home/portkey.log" 2>&1 && echo "installed: portkey" || skip portkey
}

# nginx: the machine's own, else the distribution's package, unpacked and not installed
unpack_nginx() {
    command -v nginx >/dev/null && { echo "there: nginx"; return; }
    [ -x "$home/nginx/usr/sbin/nginx" ] && { echo "there: nginx"; return; }
    { cd "$home" && apt-get download nginx && dpkg -x nginx_*.deb nginx && rm nginx_*.deb; } >"$home/nginx.log" 2>&1
    cd - >/dev/null || exit 1
    [ -x "$home/nginx/usr/sbin/nginx" ] && echo "installed: nginx" || skip nginx
}

for peer in "${@:-litellm portkey mlflow nginx}"; do
    for one in $peer; do
        case $one in
            litellm) venv litellm 'litellm[proxy]==1.108.0' ;;
            mlflow) venv mlflow 'mlflow[gateway]==3.17.2' ;;
            routellm) venv routellm 'routellm[serve,eval]==0.2.0' ;;  # gigabytes: it brings torch
            portkey) install_portkey ;;
            nginx) unpack_nginx ;;
            *) echo "unknown peer: $one"; exit 2 ;;
        esac
    done
done
