#!/usr/bin/env bash
# `mizuchi upload`, aws-cli and rclone on the same job, in one run: docs/batch.md, "Beside aws-cli and rclone".
#
#   benches/upload/compare.sh [FILES [MIB [ROUNDS]]]      20000 files of 1 to 16 KiB, one of 5120 MiB, 3 rounds
#
# All of them send to one gateway over its embedded backend, which stores what comes on the same disk; the order
# changes from round to round, and each finds the files in the page cache. Wall time and the client's own CPU
# time are printed for each; what was stored is compared with what was sent, once for each client.
# MIZUCHI, AWS, RCLONE: the programs; AWS2: a second aws-cli, of another version; GATEWAY: the one that serves, MIZUCHI by default. WORK: a folder with room for twice the job.
set -euo pipefail

files=${1:-20000} mib=${2:-5120} rounds=${3:-3}
root=$(cd "$(dirname "$0")/../.." && pwd)
mizuchi=${MIZUCHI:-$root/target/release/mizuchi}
aws=${AWS:-$root/.venv/bin/aws}
rclone=${RCLONE:-rclone}
server=${GATEWAY:-$mizuchi}
for program in "$mizuchi" "$aws" "$rclone"; do
  command -v "$program" >/dev/null || { echo "$program is not there: make build clients" >&2; exit 1; }
done
work=$(mktemp -d "${WORK:-/tmp}/mizuchi-compare.XXXXXX")
gateway=
trap '[ -z "$gateway" ] || kill "$gateway"; wait; rm -rf "$work"' EXIT

python3 - "$work/job" "$files" "$mib" <<'PY'
import os, random, sys
root, files, mib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(1)
pool = random.randbytes(1 << 20)
for index in range(files):
    folder = f"{root}/{index // 1000:03}"
    os.makedirs(folder, exist_ok=True)
    length = 1024 + index * 7919 % 15360
    start = index * 104729 % (len(pool) - length)
    with open(f"{folder}/{index:06}.bin", "wb") as file:
        file.write(pool[start:start + length])
os.makedirs(root, exist_ok=True)
if mib:
    with open(f"{root}/large.bin", "wb") as file:
        for index in range(mib):
            file.write(index.to_bytes(8, "little") + pool[8:])
PY

cat > "$work/settings.yaml" <<YAML
server:
  address: 127.0.0.1:0
  state_directory: $work/state
admin:
  address: 127.0.0.1:0
embedded:
  directory: $work/stored
logging:
  level: error,mizuchi=info
buckets:
  - name: compare
    s3:
      bucket: compare
      endpoint: embedded
    # rclone sends x-amz-acl.
    upload:
      allow: [acl]
    auth:
      sigv4:
        credentials:
          - access_key: AKIACOMPARECOMPARE00
            secret_key: compare/secret
YAML
"$server" serve --settings "$work/settings.yaml" >"$work/gateway.log" 2>&1 &
gateway=$!
for _ in $(seq 100); do
  endpoint=$(sed -n 's/.*uploads on \(http:[^ ]*\).*/\1/p' "$work/gateway.log")
  [ -n "$endpoint" ] && break
  sleep 0.1
done
[ -n "$endpoint" ] || { cat "$work/gateway.log" >&2; exit 1; }

# rclone cannot have one, and nobody needs it here.
unset AWS_CA_BUNDLE AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3
export AWS_ACCESS_KEY_ID=AKIACOMPARECOMPARE00 AWS_SECRET_ACCESS_KEY=compare/secret
export AWS_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true HOME=$work XDG_STATE_HOME=$work/xdg
printf '[default]\ns3 =\n  max_concurrent_requests = 32\n  multipart_chunksize = 16MB\n' > "$work/aws"
export AWS_CONFIG_FILE=$work/aws

# Each as its documentation says for many files: 32 requests at a time, parts of 16 MiB. The gateway serves no
# listings and no HEAD, so rclone is told not to ask.
run_mizuchi() { "$mizuchi" upload "$work/job" "s3://compare/$1" --endpoint "$endpoint" --quiet; }
run_aws() { "${2:-$aws}" s3 cp --recursive --only-show-errors --endpoint-url "$endpoint" "$work/job" "s3://compare/$1"; }
run_aws2() { run_aws "$1" "$AWS2"; }
run_rclone() {
  "$rclone" copy --config /dev/null --transfers 32 --checkers 32 --no-check-dest --no-traverse --retries 1 \
    --s3-provider Other --s3-env-auth --s3-endpoint "$endpoint" --s3-region us-east-1 --s3-no-check-bucket \
    --s3-no-head --s3-chunk-size 16Mi --s3-upload-concurrency 8 --s3-force-path-style \
    "$work/job" ":s3:compare/$1"
}

same() {
  local sums
  sums() { (cd "$1" && find . -type f ! -name '*.internal.*' -print0 | sort -z | xargs -0 sha256sum | sha256sum); }
  [ "$(sums "$work/job")" = "$(sums "$work/stored/compare/$1")" ]
}

echo "$files files of 1 to 16 KiB and one of $mib MiB; $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg)"
"$aws" --version
[ -z "${AWS2:-}" ] || "$AWS2" --version
"$rclone" version | head -1
echo
echo "| round | client | wall s | client's CPU s |"
echo "|---:|---|---:|---:|"
clients=(mizuchi aws rclone ${AWS2:+aws2})
find "$work/job" -type f -print0 | xargs -0 cat >/dev/null
for round in $(seq "$rounds"); do
  for client in "${clients[@]}"; do
    rm -rf "$work/stored/compare/$client"
    sync
    TIMEFORMAT='%R %U %S'
    took=$( { time "run_$client" "$client" >"$work/$client.log" 2>&1; } 2>&1 ) || { tail -5 "$work/$client.log" >&2; exit 1; }
    echo "$took" | awk -v r="$round" -v c="$client" '{printf "| %s | %s | %.1f | %.1f |\n", r, c, $1, $2 + $3}'
    [ "$round" -gt 1 ] || same "$client" || { echo "$client: what is stored is not what was sent" >&2; exit 1; }
  done
  clients=("${clients[@]:1}" "${clients[0]}")
done
