# Shared by the stand-ins, which source it: $FAKE is the directory of one test.
# shellcheck shell=bash

# One call, in one write: its words, each after a unit separator, and a record separator.
printf -v call '\x1f%s' "${0##*/}" "$@"
printf '%s\x1e' "$call" >>"$FAKE/calls"

# The first line of a file in $FAKE, which loses it; the last line stays.
pop() {
  (
    flock 8
    head -n 1 "$FAKE/$1"
    if (($(wc -l <"$FAKE/$1") > 1)); then
      sed -i 1d "$FAKE/$1"
    fi
  ) 8>>"$FAKE/pop.lock"
}

# $FAKE/failure, WORDS:MESSAGE, makes one call that contains the words fail.
if [[ -f $FAKE/failure ]]; then
  IFS=: read -r words message <"$FAKE/failure"
  if [[ "$*" == *"$words"* ]]; then
    rm "$FAKE/failure"
    echo "ERROR: $message" >&2
    exit 1
  fi
fi
