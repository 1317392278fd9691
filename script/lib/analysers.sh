# Python tools that analyse, each set in an environment of its own. Sourced after common.sh.

tools="$root/$target_dir/tools"
case "$target_dir" in /*) tools="$target_dir/tools" ;; esac
# Of the contract.
analysers=$tools/analysers
# Of the API.
schemathesis=$tools/schemathesis

# Does nothing when they are there.
install_analysers() {
    python_tools "$analysers" script/requirements.txt "slither and halmos" "300 MB"
}

install_schemathesis() {
    python_tools "$schemathesis" script/requirements-schemathesis.txt schemathesis "100 MB"
}

# python_tools FOLDER REQUIREMENTS NAMES SIZE
python_tools() {
    cmp -s "$2" "$1/requirements.txt" && return
    say "Installing $3 into $target_dir/tools (about $4, once)"
    rm -rf "$1"
    mkdir -p "$(dirname "$1")"
    python3 -m venv "$1" || die "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"
    "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2"
    cp "$2" "$1/requirements.txt"
}

# The analysers call forge by its name.
with_forge() {
    PATH="$(dirname "$(foundry forge)"):$analysers/bin:$PATH" "$@"
}
