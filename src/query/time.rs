//! What `--since` and `@{...}` understand: times, and how long ago. RFC 3339 itself is in `types/rfc3339.rs`.

use crate::types::Time;
use crate::types::rfc3339::number;
pub use crate::types::rfc3339::{format, parse_rfc3339};

/// What `--since` takes: a time as in [`parse_rfc3339`], or how long ago (`30s`, `10m`, `2h`, `1d`, `1w`).
pub fn parse_since(text: &str, now: Time) -> Option<Time> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return parse_rfc3339(text),
    };
    let count = number(text.get(..text.len() - 1)?)?;
    Some(Time::new(now.secs.saturating_sub(count.saturating_mul(unit)), now.nanos))
}

/// What `@{...}` takes: all that [`parse_since`] does, `now`, `yesterday` (this time of the day, as in git), and times ago in words: `10 minutes ago`,
/// `1 day 2 hours ago`. As in git, dots may stand for blanks. Of units there are seconds, minutes, hours, days and weeks.
pub fn parse_moment(text: &str, now: Time) -> Option<Time> {
    let ago = |secs: i64| Time::new(now.secs.saturating_sub(secs), now.nanos);
    let lower = text.to_ascii_lowercase();
    let mut words: Vec<&str> = lower.split([' ', '.', '_']).filter(|word| !word.is_empty()).collect();
    match *words {
        ["now"] => return Some(now),
        ["yesterday"] => return Some(ago(86_400)),
        [.., "ago"] => words.pop(),
        _ => return parse_since(text, now),
    };
    let mut total = 0_i64;
    let mut pairs = words.chunks_exact(2);
    for pair in &mut pairs {
        let [count, unit] = *pair else { return None };
        let unit = match unit.strip_suffix('s').unwrap_or(unit) {
            "second" | "sec" => 1,
            "minute" | "min" => 60,
            "hour" => 3600,
            "day" => 86_400,
            "week" => 7 * 86_400,
            _ => return None,
        };
        total = total.saturating_add(number(count)?.saturating_mul(unit));
    }
    match *pairs.remainder() {
        [] if !words.is_empty() => Some(ago(total)),
        // `10m ago`. Not a date: it is not known from where on that would be meant.
        [short] if words.len() == 1 && !short.contains('-') => parse_since(short, now),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_times_and_durations() {
        let now = Time::new(1_700_000_000, 7);
        assert_eq!(parse_since("10m", now), Some(Time::new(1_699_999_400, 7)));
        assert_eq!(parse_since("2h", now), Some(Time::new(1_699_992_800, 7)));
        assert_eq!(parse_since("1d", now), Some(Time::new(1_699_913_600, 7)));
        assert_eq!(parse_since("2023-11-14T22:13:20Z", now), Some(Time::new(1_700_000_000, 0)));
        assert_eq!(parse_since("2023-11-14 23:13:20.5+01:00", now), Some(Time::new(1_700_000_000, 500_000_000)));
        assert_eq!(parse_since("2023-11-14", now), Some(Time::new(1_699_920_000, 0)));
        for bad in [
            "",
            "m",
            "x",
            "-5m",
            "2023-02-29",
            "2023-13-01",
            "2023-11-14T24:00",
            "2023-11-14T1",
            "é0m",
            "2023-11-14T10:00:00.1234567890Z",
        ] {
            assert_eq!(parse_since(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn moments_are_told_in_words() {
        let now = Time::new(1_700_000_000, 7);
        let ago = |secs: i64| Some(Time::new(1_700_000_000 - secs, 7));
        for (text, secs) in [
            ("now", 0),
            ("yesterday", 86_400),
            ("Yesterday", 86_400),
            ("10 minutes ago", 600),
            ("1 minute ago", 60),
            ("2 hours ago", 7200),
            ("2.hours.ago", 7200),
            ("  3  days ago ", 259_200),
            ("1 day 2 hours ago", 93_600),
            ("5 secs ago", 5),
            ("5 mins ago", 300),
            ("1 Week Ago", 604_800),
            ("10m", 600),
            ("10m ago", 600),
            ("0 seconds ago", 0),
        ] {
            assert_eq!(parse_moment(text, now), ago(secs), "{text}");
        }
        assert_eq!(parse_moment("2023-11-14 10:30", now), Some(Time::new(1_699_957_800, 0)));
        assert_eq!(parse_moment("2023-11-14T10:30:00.5Z", now), Some(Time::new(1_699_957_800, 500_000_000)));
        assert_eq!(parse_moment("999999999 weeks ago", now), Some(Time::new(1_700_000_000 - 604_800 * 999_999_999, 7)));
        for bad in [
            "",
            "ago",
            "10",
            "minutes ago",
            "ten minutes ago",
            "10 fortnights ago",
            "10 minutes",
            "10 minutes 5 ago",
            "-5 minutes ago",
            "2023-11-14 ago",
            "1 month ago",
            "tomorrow",
        ] {
            assert_eq!(parse_moment(bad, now), None, "{bad}");
        }
    }
}
