#!/usr/bin/env bash
# Does a browser draw the page as it should? tools/check_page.sh PAGE.html...
# Headless Chromium draws each page: nothing on its console, no stretch of the page without ink, nothing past the right margin, and it prints.
# Exits with 77 (skipped) where Chromium or ImageMagick is missing.
set -uo pipefail

width=1280 band=400
browser=
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then browser=$name; break; fi
done
if [ -z "$browser" ] || ! command -v convert >/dev/null; then
    echo "[  SKIPPED ] pages in a browser: no chromium or no imagemagick here"
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

draw() {  # PAGE MODE...: the browser's log is in $work/log
    local page=$1
    shift
    HOME=$work timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$work/profile" --hide-scrollbars \
        --enable-logging=stderr --log-level=0 "$@" "file://$(realpath "$page")" >"$work/log" 2>&1
}

check_picture() {  # PICTURE: complaints, a line each
    local height y=0 colours
    height=$(convert "$1" -bordercolor white -border 1 -trim -format '%[fx:page.y+h]' info: 2>/dev/null)
    if [ "${height:-0}" -lt 300 ]; then
        echo "the picture is empty"
        return
    fi
    while read -r colours; do
        [ $((y + band)) -gt "$height" ] || [ "$colours" -gt 1 ] || echo "nothing is drawn between $y and $((y + band)) pixels of $height"
        y=$((y + band))
    done < <(convert "$1" -crop "${width}x$band" +repage -format '%k\n' info:)
    colours=$(convert "$1" -crop "24x$height+$((width - 24))+0" +repage -format '%k' info:)
    [ "$colours" -eq 1 ] || echo "something is drawn in the right margin"
}

bad=0
for page in "$@"; do
    complaints=$(
        draw "$page" --screenshot="$work/page.png" --window-size=$width,9000 || echo "the browser failed: $(tail -n 2 "$work/log")"
        grep -o 'CONSOLE.*' "$work/log" | cut -c 1-200
        [ -s "$work/page.png" ] && check_picture "$work/page.png" || echo "there is no picture"
        draw "$page" --print-to-pdf="$work/page.pdf" --no-pdf-header-footer
        [ "$(head -c 5 "$work/page.pdf" 2>/dev/null)" = "%PDF-" ] || echo "it does not print"
    )
    rm -f "$work/page.png" "$work/page.pdf"
    if [ -n "$complaints" ]; then
        printf '%s\n' "$page:" "$complaints"
        bad=1
    else
        echo "$page: drawn, nothing on the console"
    fi
done
exit $bad
