#!/bin/sh
# The steps of the Dockerfile where there is no Docker: a fresh environment, then the service as an unprivileged user whose
# file system is read-only but for /tmp, its health check, one picture, and an end by SIGTERM. Needs root and unshare.
#   PYTHON=python3.12 sh packages/container_steps.sh /opt/refineseg
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
env=${1:?expected a folder for the environment, which every user can read}
"${PYTHON:-python3}" -m venv "$env"
"$env/bin/pip" --disable-pip-version-check install --quiet -c "$root/constraints.txt" \
    "$root[serve,openvino,vectors]" "$root/packages/weights"
cat >"$env/inside.sh" <<'INSIDE'
set -eu
mount -o remount,bind,ro / 2>/dev/null || { mount --bind / / && mount -o remount,bind,ro /; }
mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid tmpfs /tmp
cd /tmp
as_user="setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"
as_user="$as_user env -i PATH=$1/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp MPLCONFIGDIR=/tmp"
$as_user refineseg serve --host 127.0.0.1 --port 8000 --device cpu --backend auto &
service=$!
for _ in $(seq 120); do
    if $as_user python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)" 2>/dev/null; then
        echo "healthy"
        break
    fi
    sleep 1
done
$as_user python -c "
import io, urllib.request
from PIL import Image
content = io.BytesIO()
Image.new('RGB', (320, 240), (120, 130, 140)).save(content, 'PNG')
answer = urllib.request.urlopen(urllib.request.Request('http://127.0.0.1:8000/v1/segment', content.getvalue()), timeout=60)
print(Image.open(io.BytesIO(answer.read())).size)
try:
    open('$1/written', 'w')
except OSError as error:
    print('read-only:', error.strerror)
"
kill -TERM $(pgrep -P $service refineseg || echo $service)
wait $service && echo "ended with 0" || echo "ended with $?"
INSIDE
unshare --mount --net sh -c 'ip link set lo up && exec sh "$1/inside.sh" "$1"' - "$env"
