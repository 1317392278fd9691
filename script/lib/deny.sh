# cargo-deny: checks what the dependencies are against deny.toml. Sourced by script/test.

deny_version=0.20.2
deny_program=$target_dir/tools/bin/cargo-deny

install_deny() {
    if [ "$("$deny_program" --version 2>/dev/null)" = "cargo-deny $deny_version" ]; then
        return
    fi
    say "Building cargo-deny $deny_version (about a minute, once)"
    # Without optimisation: it runs for seconds, and builds several times as fast.
    cargo install cargo-deny --version "$deny_version" --locked --debug --quiet --force --root "$target_dir/tools"
}

check_dependencies() {
    local log=$target_dir/tools/deny.log
    # Duplicates are warnings, each with a page of context: on success their number is enough.
    if "$deny_program" --locked check --hide-inclusion-graph bans licenses sources >"$log" 2>&1; then
        tail -n 1 "$log"
        say "$(grep -c '^warning\[duplicate\]' "$log" || true) crates are there in more than one version; see $log"
    else
        cat "$log"
        return 1
    fi
}

check_advisories() {
    if "$deny_program" --locked fetch db >/dev/null 2>&1; then
        "$deny_program" --locked --offline check --hide-inclusion-graph advisories
    else
        note "advisories were NOT checked: the RustSec database cannot be fetched from here"
    fi
}
