//! How much of the past is kept: the defaults, the environment, and what people write.

use std::time::Duration;

use super::retention::Policy;

/// Thirty days and 20 GiB.
pub const DEFAULT: Policy = Policy { keep: Some(Duration::from_secs(30 * 86_400)), max_size: Some(20 << 30) };

/// The variables that change the defaults.
pub const KEEP: &str = "REGENTFS_KEEP";
pub const MAX_SIZE: &str = "REGENTFS_MAX_SIZE";

/// A number, and behind it the unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

/// `30d`, `12h`, `2w`, `90m`, `45s`; `forever` is none.
///
/// # Errors
/// What is understood.
pub fn parse_keep(text: &str) -> Result<Option<Duration>, String> {
    let text = text.trim();
    if text == "forever" {
        return Ok(None);
    }
    let unit = |unit: &str| match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        "w" => Some(7 * 86_400),
        _ => None,
    };
    split(text)
        .and_then(|(n, u)| n.checked_mul(unit(u)?))
        .map(|seconds| Some(Duration::from_secs(seconds)))
        .ok_or_else(|| "give a time such as 30d, 12h or 2w, or forever".to_owned())
}

/// `20G`, `500M`, `1T`, bytes without a unit; `none` is no limit. The units are powers of 1024, with or without `iB` behind them.
///
/// # Errors
/// What is understood.
pub fn parse_size(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim();
    if text == "none" {
        return Ok(None);
    }
    let shift = |unit: &str| {
        let unit = unit.strip_suffix("iB").or_else(|| unit.strip_suffix('B')).unwrap_or(unit);
        match unit {
            "" => Some(0),
            "K" | "k" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            "T" => Some(40),
            _ => None,
        }
    };
    split(text)
        .and_then(|(n, u)| n.checked_mul(1 << shift(u)?))
        .map(Some)
        .ok_or_else(|| "give a size such as 20G or 500M, or none".to_owned())
}

/// The limits that hold here, and what is wrong with the environment: then the default stays.
pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> (Policy, Vec<String>) {
    let (mut policy, mut wrong) = (DEFAULT, Vec::new());
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(text) = set(KEEP) {
        match parse_keep(&text) {
            Ok(keep) => policy.keep = keep,
            Err(why) => wrong.push(format!("{KEEP}={text}: {why}")),
        }
    }
    if let Some(text) = set(MAX_SIZE) {
        match parse_size(&text) {
            Ok(size) => policy.max_size = size,
            Err(why) => wrong.push(format!("{MAX_SIZE}={text}: {why}")),
        }
    }
    (policy, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        let seconds = |text: &str| parse_keep(text).map(|keep| keep.map(|d| d.as_secs()));
        assert_eq!(seconds("30d"), Ok(Some(2_592_000)));
        assert_eq!(seconds(" 2w "), Ok(Some(1_209_600)));
        assert_eq!(seconds("0s"), Ok(Some(0)));
        assert_eq!(seconds("forever"), Ok(None));
        for bad in ["", "d", "30", "30x", "-1d", "99999999999999999999d", "18446744073709551615w", "1.5d"] {
            assert!(parse_keep(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size("20G"), Ok(Some(20 << 30)));
        assert_eq!(parse_size("20 GiB"), Ok(Some(20 << 30)));
        assert_eq!(parse_size("512"), Ok(Some(512)));
        assert_eq!(parse_size("3kB"), Ok(Some(3072)));
        assert_eq!(parse_size("none"), Ok(None));
        for bad in ["", "G", "20X", "-1", "99999999T", "18446744073709551616"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_changes_what_it_says_and_nothing_else() {
        let limits = |set: &'static [(&str, &str)]| {
            from_environment(move |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(limits(&[]), (DEFAULT, Vec::new()));
        assert_eq!(limits(&[(KEEP, "1h")]).0, Policy { keep: Some(Duration::from_secs(3600)), ..DEFAULT });
        assert_eq!(limits(&[(MAX_SIZE, "none"), (KEEP, "")]).0, Policy { max_size: None, ..DEFAULT });
        let (policy, wrong) = limits(&[(MAX_SIZE, "much"), (KEEP, "long")]);
        assert_eq!((policy, wrong.len()), (DEFAULT, 2));
        assert!(wrong[0].contains("REGENTFS_KEEP=long"), "{wrong:?}");
    }
}
