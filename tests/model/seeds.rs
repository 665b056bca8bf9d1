//! Which random sequences a test runs: others each time, but under CI always the same, so that what is red there is so because of the change.

#![allow(dead_code)] // each test binary uses its own part

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// The seed in the environment variable `name`, or one of our own.
pub fn seed(name: &str) -> u64 {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "false" | "0")));
    let own = || if in_ci { 1 } else { regentfs::clock::now().as_nanos() as u64 % 1_000_000_000_000 };
    number(name).unwrap_or_else(own)
}

/// `count` seeds in a row, or as many as `REGENTFS_<what>_SEEDS` says; the one in `REGENTFS_<what>_SEED` alone.
pub fn seeds(what: &str, count: u64) -> impl Iterator<Item = u64> {
    let name = format!("REGENTFS_{what}_SEED");
    let asked = number(&name);
    let first = asked.unwrap_or_else(|| seed(&name) * 1000);
    let count = number(&format!("{name}S")).unwrap_or(count);
    first..first + asked.map_or(count, |_| 1)
}
