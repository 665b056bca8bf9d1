mkdir -p src
cat > Cargo.toml <<'TOML'
[package]
name = "tiny"
version = "0.1.0"
edition = "2021"

[lib]
path = "src/lib.rs"

[[bin]]
name = "tiny"
path = "src/main.rs"
TOML
cat > src/lib.rs <<'RUST'
pub fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

#[test]
fn sums() {
    assert_eq!(sum(&[1, 2, 3]), 6);
}
RUST
cat > src/main.rs <<'RUST'
fn main() {
    println!("sum {}", tiny::sum(&[20, 22]));
}
RUST
touch -d '2020-01-01T00:00:00.5Z' Cargo.toml src/lib.rs src/main.rs
