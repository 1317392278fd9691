# The analysers of the contract, in a Python environment of their own. Sourced after common.sh.

analysers="$root/$target_dir/tools/analysers"
case "$target_dir" in /*) analysers="$target_dir/tools/analysers" ;; esac

# Does nothing when they are there.
install_analysers() {
    cmp -s script/requirements.txt "$analysers/requirements.txt" && return
    say "Installing slither and halmos into $target_dir/tools (about 300 MB, once)"
    rm -rf "$analysers"
    mkdir -p "$(dirname "$analysers")"
    python3 -m venv "$analysers" || die "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"
    "$analysers/bin/pip" install --quiet --disable-pip-version-check -r script/requirements.txt
    cp script/requirements.txt "$analysers/requirements.txt"
}

# The analysers call forge by its name.
with_forge() {
    PATH="$(dirname "$(foundry forge)"):$analysers/bin:$PATH" "$@"
}
