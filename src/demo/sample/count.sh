# Functions that count what standard input has.

count_lines() {
    awk 'END { print NR }'
}

count_words() {
    awk '{ words += NF } END { print words + 0 }'
}
