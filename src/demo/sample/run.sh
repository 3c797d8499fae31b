#!/bin/sh
# The tests. Exit status 1 when one of them fails.
cd "$(dirname "$0")/.." || exit 1
. lib/count.sh
failed=0
trap 'exit $failed' EXIT

check() {
    if [ "$2" = "$3" ]; then
        echo "ok: $1"
    else
        echo "not ok: $1: expected $2, found $3"
        failed=1
    fi
}

check "lines" 2 "$(printf 'one two\nthree\n' | count_lines)"
check "words" 3 "$(printf 'one two\nthree\n' | count_words)"
check "the program" 3 "$(printf 'one two\nthree\n' | sh bin/wc.sh -w)"
