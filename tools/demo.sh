#!/usr/bin/env bash
# The demo: profile a model on text samples, plan for 2 nodes x 2 ranks, climb the ladder of the paper's Table 1, draw the report.
set -euo pipefail
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd)
model=$root/models/tiny-olmoe out=out wire='' repeat=1 grace=$root/build/release/grace ranks=2x2 tokens=8192 sequences=64
texts=() changes=''
usage() {
    sed -n '2s/^# //p' "$0"
    echo "usage: ./run demo [--wire RATE] [--model DIR] [--text FILE]... [--tokens N] [--sequences N] [--repeat N] [--out DIR]"
    echo "  --wire RATE     as root: the two nodes are network namespaces joined by a link of that rate, e.g. 1gbit"
    echo "  --model DIR     another model folder, with its tokenizer.json (default models/tiny-olmoe)"
    echo "  --text FILE     text of a domain, documents separated by byte 0x1e; once for each domain"
    echo "                  (default: samples/*.txt of the model, of tiny-olmoe when it has none)"
    echo "  --tokens N      tokens of each domain to profile (default 8192)"
    echo "  --sequences N   sequences of the ladder's batch (default 64)"
    echo "  --repeat N      timed runs of every rung, the median is shown (default 1)"
    echo "  --out DIR       where trace, plans, numbers and report go (default out)"
}
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    esac
    [ $# -ge 2 ] || { usage >&2; exit 64; }
    case $1 in
    --wire) wire=$2 changes+=" --wire $2" ;;
    --model) model=$2 changes+=" --model $2" ;;
    --text) texts+=("$2") changes+=" --text $2" ;;
    --tokens) tokens=$2 changes+=" --tokens $2" ;;
    --sequences) sequences=$2 changes+=" --sequences $2" ;;
    --repeat) repeat=$2 changes+=" --repeat $2" ;;
    --out) out=$2 ;;
    --grace) grace=$2 ;;
    *) usage >&2; exit 64 ;;
    esac
    shift 2
done
samples=$model/samples
[ -d "$samples" ] || samples=$root/models/tiny-olmoe/samples
[ ${#texts[@]} -gt 0 ] || texts=("$samples/prose.txt" "$samples/math.txt" "$samples/code.txt")
mkdir -p "$out"
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
start=$(date +%s)

echo "1. profile: $tokens tokens of each domain, from the even documents"
"$grace" profile -m "$model" --documents even --tokens "$tokens" -o "$out/demo.trace" "${texts[@]}"
echo
echo "2. plan for 2 nodes x 2 ranks"
"$grace" plan "$out/demo.trace" --cluster "node:2 gpu:2" -o "$out/plan.json"
echo
echo "3. ladder: $sequences sequences of the odd documents, 64 tokens of prompt and 16 generated each, on $ranks ranks${wire:+, nodes joined at $wire}"
"$grace" bench ladder -m "$model" --ranks "$ranks" ${wire:+--wire "$wire"} --trace "$out/demo.trace" --plans "$out/plans" --sequences "$sequences" \
    --repeat "$repeat" --commit "$commit" --command "./run demo$changes" -o "$out/ladder.json" "${texts[@]}"
"$grace" report "$out/ladder.json" -o "$out/report.html" >/dev/null
echo
if [ -z "$wire" ]; then
    echo "times are of memory shared by all ranks, where moving rows costs next to nothing: a slow link (--wire 1gbit, as root) gives rows a price"
fi
echo "report: $out/report.html   numbers: $out/ladder.json   plans: $out/plans/   ($(($(date +%s) - start)) s)"
