unset CARGO_TARGET_DIR RUSTC_WRAPPER RUSTFLAGS CARGO_BUILD_TARGET_DIR
export CARGO_HOME="$SCENARIO_HOME/cargo" CARGO_INCREMENTAL=0 CARGO_BUILD_JOBS=1
cargo build --offline
target/debug/tiny
# Nothing is built again: cargo compares times down to the nanosecond.
cargo build --offline -v 2>&1 | sed -n 's/^ *Fresh /Fresh /p'
cargo test --offline -q 2>/dev/null | grep '^test result' | sed 's/; finished in.*//'
sed -i 's/sum {}/the sum {}/' src/main.rs
cargo build --offline -v 2>&1 | sed -n -e 's/^ *Fresh \([^ ]*\).*/Fresh \1/p' -e 's/^ *Dirty \([^ ]*\).*/Dirty \1/p'
target/debug/tiny
cargo clean --offline 2>/dev/null
test ! -e target
cargo build --offline --release
target/release/tiny
