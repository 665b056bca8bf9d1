//! Leaves RocksDB's line tables out of what is linked: 400 MB that nobody reads. Symbols stay, for profilers.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--strip-debug");
}
