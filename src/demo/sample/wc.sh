#!/bin/sh
# Counts what standard input has.
. "$(dirname "$0")/../lib/count.sh"

case "${1:--l}" in
    -l) count_lines ;;
    -w) count_words ;;
    *) echo "usage: wc.sh [-l|-w]" >&2; exit 2 ;;
esac
