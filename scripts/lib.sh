# What the scripts share: packages, Rust, the target directory. Sourced by bash; changes to the checkout's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

if [ -t 1 ]; then bold=$'\e[1m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' red='' dim='' plain=''; fi

say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
die() { printf '%s%s: %s%s\n' "$red" "${0##*/}" "$*" "$plain" >&2; exit 1; }

in_ci() { case ${CI:-} in '' | false | 0) return 1 ;; esac; }

# As root, or through sudo where there is one.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo > /dev/null; then sudo "$@"
    else return 1; fi
}

# have_packages COMMAND:PACKAGE...: installs what is missing. A path instead of a command is looked for as a file; a package
# is also known to be there by its name alone (`:PACKAGE`).
have_packages() {
    local pair command package missing=()
    for pair in "$@"; do
        command=${pair%%:*} package=${pair#*:}
        case $command in
            '') dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package") ;;
            *) command -v "$command" > /dev/null || missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get > /dev/null || { printf 'not Debian, so please install: %s\n' "${missing[*]}" >&2; return 1; }
    say "installing ${missing[*]}"
    as_root true || { printf 'not root, so please install: %s\n' "${missing[*]}" >&2; return 1; }
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq ||
        printf 'apt-get update failed; the lists that are there may do\n' >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

# What building needs: a C++ compiler and libclang for RocksDB; what mounting as a plain user needs: fusermount3.
BUILD_PACKAGES=(c++:g++ clang:clang :libclang-dev make:make fusermount3:fuse3 git:git :ca-certificates)

# The oldest Rust that Cargo.toml names.
have_rust() {
    local wanted found
    PATH=$HOME/.cargo/bin:$PATH
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(cargo --version 2> /dev/null | cut -d ' ' -f 2)
    if [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ]; then return; fi
    say "installing Rust with rustup: regentfs needs $wanted, there is ${found:-none}"
    if ! command -v rustup > /dev/null; then
        as_root apt-get install -y -qq rustup > /dev/null 2>&1 ||
            die "this Debian has no package rustup: install Rust $wanted or newer, and run this again"
    fi
    rustup toolchain install -q stable --profile minimal -c rustfmt -c clippy
    rustup default stable > /dev/null 2>&1
    cargo --version > /dev/null || die "there is no cargo in $HOME/.cargo/bin: install Rust $wanted or newer, and run this again"
}

# RocksDB takes about 15 minutes on two cores: one target directory, kept between checkouts and runs.
if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    if mkdir -p "$HOME/.cache/regentfs/target" 2> /dev/null; then CARGO_TARGET_DIR=$HOME/.cache/regentfs/target
    else CARGO_TARGET_DIR=$PWD/target; fi
fi
export CARGO_TARGET_DIR
