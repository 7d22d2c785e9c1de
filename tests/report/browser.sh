#!/usr/bin/env bash
# The pages of the report in a real browser; and the check itself sees a page that complains, one that is empty and one that is too wide.
# Usage: browser.sh GRACE SOURCE_DIR
set -euo pipefail
grace=$1 source=$2 work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for name in ladder placements; do "$grace" report "$source/tests/golden/report/$name.json" -o "$work/$name.html" >/dev/null; done
"$source/tools/check_page.sh" "$work/ladder.html" "$work/placements.html" || exit $?

ink='<p style="height:290px">text</p><p>text</p>'
echo "<html><body>$ink<script>console.error('planted')</script></body></html>" >"$work/complains.html"
echo "<html><body></body></html>" >"$work/empty.html"
echo "<html><body>$ink<div style=\"width:1400px;background:red\">wide</div></body></html>" >"$work/wide.html"
"$source/tools/check_page.sh" "$work"/{complains,empty,wide}.html >"$work/out" && { echo "three bad pages passed"; exit 1; }
for complaint in planted "the picture is empty" "something is drawn in the right margin"; do
    grep -q "$complaint" "$work/out" || { echo "expected a complaint '$complaint', found:"; cat "$work/out"; exit 1; }
done
