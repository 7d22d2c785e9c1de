#!/usr/bin/env bash
# A picture of a page as a browser draws it: tools/screenshot.sh report.html [page.png]. With a name ending in .pdf: as it prints.
# Says "skipped" and succeeds where there is no Chromium: no test needs this.
set -euo pipefail

page=${1:?usage: tools/screenshot.sh report.html [page.png|page.pdf]}
out=${2:-${page%.html}.png}

browser=
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then browser=$name; break; fi
done
if [ -z "$browser" ]; then
    echo "screenshot: skipped, no chromium here"
    exit 0
fi

# The tallest page of ours is under 9000 pixels; what is below its end stays white.
mode=(--screenshot="$(realpath -m "$out")" "--window-size=1280,9000" --hide-scrollbars)
case $out in *.pdf) mode=(--print-to-pdf="$(realpath -m "$out")" --no-pdf-header-footer) ;; esac
timeout 60 "$browser" --headless --no-sandbox --disable-gpu "${mode[@]}" "file://$(realpath "$page")" >/dev/null 2>&1
echo "screenshot: $out"
