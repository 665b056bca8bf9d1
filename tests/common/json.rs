//! What commands print, held against docs/JSON.md, and how they refuse.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::both;

/// What a command said beside its output.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One line that starts with the program's name, and this exit code.
pub fn assert_refused(output: &Output, code: i32, says: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
    assert!(text.starts_with("regentfs: ") && text.lines().count() == 1, "not one line: {text}");
    assert!(text.contains(says), "{text:?} does not say {says:?}");
}

/// The documented fields of an object in docs/JSON.md: the names in the first column of a section's first table.
pub fn documented(section: &str) -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/JSON.md")).unwrap();
    let part = text.split(&format!("\n## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = part.lines().skip_while(|l| !l.starts_with("| field")).skip(2).take_while(|l| l.starts_with('|'));
    rows.flat_map(|row| {
        row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
}

/// Every field is documented, and every documented field is there unless it may be left out.
pub fn assert_documented(section: &str, objects: &[Value], optional: &[&str]) {
    let names = documented(section);
    assert!(!objects.is_empty(), "{section}: nothing to look at");
    for object in objects {
        let fields: Vec<&String> = object.as_object().unwrap().keys().collect();
        for field in &fields {
            let plain = field.strip_suffix("_hex").unwrap_or(field);
            assert!(names.iter().any(|n| n == plain), "{section}: {field} is not documented: {object}");
        }
        for name in names.iter().filter(|n| !optional.contains(&n.as_str())) {
            assert!(fields.contains(&name), "{section}: {name} is missing: {object}");
        }
    }
}

/// A field that is text.
pub fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or_else(|| panic!("{field} in {object}"))
}
