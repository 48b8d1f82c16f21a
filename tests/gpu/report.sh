# shellcheck shell=bash disable=SC2154
# Parts with a time limit, a table of what they measured, and what was wrong: to be sourced by tests/gpu.sh.

failures=()

failed() { failures+=("$1"); }

# missing <what>: says what this machine lacks, and what follows.
missing() { echo "Missing: $1"; }

# part <name> <seconds> <command> [<argument>...]: runs the command for so long at most, its output in <name>.log, and
# says how long it took. What remains until the deadline is a limit too.
part() {
  local name="$1" limit="$2" begin="$SECONDS" status=0 left=$((deadline - SECONDS))
  shift 2
  if ((left < 3)); then
    failed "$name: not run, for the time was up"
    return
  fi
  timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$results/$name.log" 2>&1 || status=$?
  printf '%4d s  %s\n' "$((SECONDS - begin))" "$name"
  if ((status == 0)); then return; fi
  tail -n 40 "$results/$name.log" | sed 's/^/       | /'
  case "$status" in
    124 | 137) failed "$name: it took longer than its time" ;;
    *) failed "$name: exit code $status" ;;
  esac
}

# add_row <what> <ours> <raw> <ratio> <wanted>: a row of the table. <wanted> is empty, or ">= x" or "<= x"; it is said of
# the ratio, or of ours where there is none ("-").
add_row() {
  local verdict=""
  if [[ -n "$5" ]]; then
    verdict="$(awk -v value="$([[ "$4" == - ]] && echo "$2" || echo "$4")" -v wanted="$5" 'BEGIN {
      split(wanted, w, " "); print (w[1] == ">=" ? value >= w[2] : value <= w[2]) ? "yes" : "NO" }')"
    if [[ "$verdict" == NO ]]; then failed "$1: $2, raw $3, ratio $4; wanted $5"; fi
  fi
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5" "$verdict" >>"$results/table.tsv"
}

# add_rows <log>: the rows of a benchmark's own table: name | ours | raw | ratio [| wanted].
add_rows() {
  local name ours raw ratio wanted
  while IFS='|' read -r name ours raw ratio wanted; do
    read -r name <<<"$name" && read -r ours <<<"$ours" && read -r raw <<<"$raw" && read -r ratio <<<"$ratio"
    read -r wanted <<<"$wanted" || true
    if [[ ! "$ours" =~ ^[0-9.e+-]+$ || ! "$ratio" =~ ^([0-9.e+]+|-)$ ]]; then continue; fi
    if [[ -z "$wanted" ]]; then wanted="$(wanted_of "$name")"; fi
    add_row "$name" "$ours" "$raw" "$ratio" "$wanted"
  done <"$1"
}

# What is wanted of a kernel whose benchmark does not say.
wanted_of() {
  case "${1,,}" in
    *adamw* | *cast* | *widen* | *narrow* | *norm*) echo ">= 0.90" ;;
  esac
}

# Prints the table and what was wrong. @return 1 if anything was.
report() {
  echo
  if [[ -e "$results/table.tsv" ]]; then
    { printf 'what\tours\traw\tratio\twanted\tmet\n' && cat "$results/table.tsv"; } | awk -F '\t' '
      { for (i = 1; i <= NF; ++i) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
      END { for (r = 1; r <= NR; ++r) { line = ""
        for (i = 1; i <= 6; ++i) line = line sprintf(i == 1 ? "%-*s" : "  %*s", width[i], cell[r, i])
        sub(/ +$/, "", line); print line } }'
    echo
  fi
  if ((${#failures[@]})); then
    printf 'FAILED  %s\n' "${failures[@]}"
    return 1
  fi
  echo "Nothing failed; $SECONDS s."
}
