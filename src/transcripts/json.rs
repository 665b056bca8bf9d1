//! JSON of unknown shape: reading it within bounds, and looking into it without assuming anything.
//!
//! It knows no agent.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::types::Time;
use crate::types::rfc3339::parse_rfc3339;

/// The most values that a document may have. A value takes dozens of bytes of memory and may take two of text.
const MOST_VALUES: usize = 1_000_000;

/// Reads one document. Bytes that are not UTF-8 are replaced; `None` for what is no JSON, nested deeper than 128 or out of all proportion.
pub(super) fn parse(bytes: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(bytes);
    // JavaScript cuts strings in the middle of a pair of surrogates, and writes the half.
    bounded(&text).or_else(|| bounded(&mended(&text)?))
}

fn bounded(text: &str) -> Option<Value> {
    let left = Cell::new(MOST_VALUES);
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Bounded { left: &left }.deserialize(&mut reader).ok()?;
    reader.end().is_ok().then_some(value)
}

/// Makes a [`Value`] of at most as many values as are left.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            values.insert(key, map.next_value_seed(self)?);
        }
        Ok(Value::Object(values))
    }
}

/// The text with each half of a pair of surrogates replaced by U+FFFD; `None` if there is none.
fn mended(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut at, mut changed) = (Vec::with_capacity(bytes.len()), 0, false);
    while let Some(&byte) = bytes.get(at) {
        let width = match (byte, unit(bytes, at)) {
            (b'\\', Some(0xd800..=0xdbff)) if matches!(unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => 12,
            (b'\\', Some(0xd800..=0xdfff)) => {
                out.extend_from_slice(b"\\ufffd");
                changed = true;
                at += 6;
                continue;
            }
            (b'\\', Some(_)) => 6,
            (b'\\', None) => 2,
            _ => 1,
        };
        let end = (at + width).min(bytes.len());
        out.extend_from_slice(bytes.get(at..end).unwrap_or_default());
        at = end;
    }
    changed.then(|| String::from_utf8(out).ok()).flatten()
}

/// The number in an escape `\uXXXX` at a place.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

/// A field that is text.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// The first of some fields that is text.
pub(super) fn any<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| text(value, key))
}

/// A field that is text and not empty.
pub(super) fn full(value: &Value, key: &str) -> Option<String> {
    text(value, key).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The first of some fields that is a path.
pub(super) fn path(value: &Value, keys: &[&str]) -> Option<PathBuf> {
    any(value, keys).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The first of some fields that is text, as bytes.
pub(super) fn bytes(value: &Value, keys: &[&str]) -> Option<Vec<u8>> {
    any(value, keys).map(|text| text.as_bytes().to_vec())
}

pub(super) fn is_true(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// A field that is a time: RFC 3339, or milliseconds since 1970.
pub(super) fn time(value: &Value, key: &str) -> Option<Time> {
    match value.get(key)? {
        Value::String(text) => parse_rfc3339(text),
        number => number.as_i64().or_else(|| number.as_f64().map(|ms| ms as i64)).map(millis),
    }
}

/// A time from milliseconds since 1970.
pub(super) fn millis(ms: i64) -> Time {
    Time::new(ms.div_euclid(1000), ms.rem_euclid(1000) as u32 * 1_000_000)
}

/// Arguments: an object, or its text.
pub(super) fn arguments(value: &Value) -> Cow<'_, Value> {
    match value {
        Value::String(text) => parse(text.as_bytes()).map_or(Cow::Borrowed(value), Cow::Owned),
        other => Cow::Borrowed(other),
    }
}

/// The text of content: itself, or its text blocks, each on lines of its own. Of each, only what `keep` leaves.
pub(super) fn content(value: &Value, keep: impl for<'a> Fn(&'a str) -> &'a str) -> String {
    let blocks: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(blocks) => {
            blocks.iter().filter_map(|block| block.as_str().or_else(|| text(block, "text"))).collect()
        }
        other => text(other, "text").into_iter().collect(),
    };
    let kept: Vec<&str> = blocks.into_iter().map(keep).filter(|block| !block.is_empty()).collect();
    kept.join("\n").trim().to_owned()
}

/// What follows the elements at the beginning of a text whose names are among those given; nothing when one of them does not end.
pub(super) fn after_elements<'a>(text: &'a str, names: &[&str]) -> &'a str {
    let mut rest = text.trim();
    while let Some(name) = names.iter().find(|name| begins_with_element(rest, name)) {
        let end = format!("</{name}>");
        match rest.find(&end) {
            Some(at) => rest = rest.get(at + end.len()..).unwrap_or_default().trim_start(),
            None => return "",
        }
    }
    rest
}

/// Whether a text begins with `<name>` or `<name `.
fn begins_with_element(text: &str, name: &str) -> bool {
    let rest = text.strip_prefix('<').and_then(|rest| rest.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with(['>', ' ', '\n']))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn halves_of_surrogates_are_replaced() {
        let read = |text: &str| parse(text.as_bytes()).map(|value| value.as_str().unwrap().to_owned());
        assert_eq!(read(r#""a\ud83d""#).as_deref(), Some("a\u{fffd}"));
        assert_eq!(read(r#""\ude00\ud83d\ude00\\ud83d é""#).as_deref(), Some("\u{fffd}\u{1f600}\\ud83d é"));
        assert_eq!(read(r#""\ud83d\""#), None);
        assert_eq!(read(r#""\u12"#), None);
    }

    #[test]
    fn what_is_out_of_proportion_is_refused() {
        let flat = format!("[{}0]", "0,".repeat(MOST_VALUES));
        assert_eq!(parse(flat.as_bytes()), None);
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(parse(deep.as_bytes()), None);
        assert_eq!(parse(b"{} {}"), None);
        assert_eq!(parse(b"1e999"), None);
        assert_eq!(
            parse(b"{\"a\":[1,-2,3.5,null,true,\"\xff\"]}"),
            Some(json!({"a": [1, -2, 3.5, null, true, "\u{fffd}"]}))
        );
    }

    #[test]
    fn elements_at_the_beginning_are_taken_off() {
        let after = |text| after_elements(text, &["a", "bc"]);
        assert_eq!(after(" <a>x</a>\n<bc y>z</bc> rest "), "rest");
        assert_eq!(after("<a>x"), "");
        assert_eq!(after("<ab>x</ab>"), "<ab>x</ab>");
        assert_eq!(after("text <a>x</a>"), "text <a>x</a>");
    }

    #[test]
    fn times_are_text_or_milliseconds() {
        let at = |value: Value| time(&json!({ "t": value }), "t");
        assert_eq!(at(json!("2023-11-14T22:13:20.5Z")), Some(Time::new(1_700_000_000, 500_000_000)));
        assert_eq!(at(json!(1_700_000_000_250_i64)), Some(Time::new(1_700_000_000, 250_000_000)));
        assert_eq!(at(json!(-1)), Some(Time::new(-1, 999_000_000)));
        assert_eq!(at(json!(1e300)), Some(millis(i64::MAX)));
        assert_eq!(at(json!([1])), None);
        assert_eq!(at(json!("soon")), None);
    }
}
