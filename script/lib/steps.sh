# Steps with a header, their time, and a summary at the end. Sourced by script/test.

steps=()
notes=()
current=

# step TITLE COMMAND…
step() {
    local started=$SECONDS
    current=$1
    shift
    printf '\n== %s\n' "$current"
    "$@"
    steps+=("$(printf 'ok      %4d s  %s' $((SECONDS - started)) "$current")")
    current=
}

# note TEXT: for what the summary must not hide.
note() {
    say "$1"
    notes+=("$1")
}

summary() {
    local code=$?
    [ "${#steps[@]}" -gt 0 ] || [ -n "$current" ] || exit "$code"
    printf '\n== Summary\n'
    [ "${#steps[@]}" -eq 0 ] || printf '%s\n' "${steps[@]}"
    [ "${#notes[@]}" -eq 0 ] || printf 'NOTE            %s\n' "${notes[@]}"
    if [ "$code" -ne 0 ]; then
        printf 'FAILED          %s\n' "${current:-before the first step}"
    else
        printf 'All passed in %d s\n' "$SECONDS"
    fi
    exit "$code"
}
trap summary EXIT
