#!/bin/sh
# The demo: profile a model on its text samples, plan for 2 nodes x 2 ranks, climb the ladder of the paper's Table 1, draw the report.
set -eu
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
model=$root/models/tiny-olmoe out=$root/out wire='' repeat=1 grace=$root/build/release/grace ranks=2x2
usage() {
    sed -n '2s/^# //p' "$0"
    echo "usage: ./run demo [--wire RATE] [--model DIR] [--repeat N] [--out DIR]"
    echo "  --wire RATE   as root: the two nodes are network namespaces joined by a link of that rate, e.g. 1gbit"
    echo "  --model DIR   another model folder (default models/tiny-olmoe)"
    echo "  --repeat N    timed runs of every rung, the median is shown (default 1)"
    echo "  --out DIR     where trace, plans, numbers and report go (default out)"
}
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    esac
    [ $# -ge 2 ] || { usage >&2; exit 64; }
    case $1 in
    --wire) wire=$2 ;;
    --model) model=$2 ;;
    --repeat) repeat=$2 ;;
    --out) out=$2 ;;
    --grace) grace=$2 ;;
    *) usage >&2; exit 64 ;;
    esac
    shift 2
done
samples=$model/samples
[ -d "$samples" ] || samples=$root/models/tiny-olmoe/samples
set -- "$samples/prose.txt" "$samples/math.txt" "$samples/code.txt"
mkdir -p "$out"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
command="./run demo${wire:+ --wire $wire}"
[ "$repeat" = 1 ] || command="$command --repeat $repeat"
start=$(date +%s)

echo "1. profile: 8,192 tokens of each domain, from the even documents"
"$grace" profile -m "$model" --documents even --tokens 8192 -o "$out/demo.trace" "$@"
echo
echo "2. plan for 2 nodes x 2 ranks"
"$grace" plan "$out/demo.trace" --cluster "node:2 gpu:2" -o "$out/plan.json"
echo
echo "3. ladder: 64 sequences of the odd documents, 64 tokens of prompt and 16 generated each, on $ranks ranks${wire:+, nodes joined at $wire}"
"$grace" bench ladder -m "$model" --ranks "$ranks" ${wire:+--wire "$wire"} --trace "$out/demo.trace" --plans "$out/plans" \
    --repeat "$repeat" --commit "$commit" --command "$command" -o "$out/ladder.json" "$@"
"$grace" report "$out/ladder.json" -o "$out/report.html" >/dev/null
echo
echo "report: $out/report.html   numbers: $out/ladder.json   plans: $out/plans/   ($(($(date +%s) - start)) s)"
