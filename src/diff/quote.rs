//! Paths as git prints them: in C quotes when they hold anything unusual (`core.quotePath`).

/// The path with a prefix, quoted as a whole if need be.
pub fn quote(prefix: &str, path: &[u8]) -> Vec<u8> {
    let plain = |&b: &u8| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\';
    let mut out = prefix.as_bytes().to_vec();
    if path.iter().all(plain) {
        out.extend_from_slice(path);
        return out;
    }
    out.insert(0, b'"');
    for &byte in path {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0x07 => out.extend(b"\\a"),
            0x08 => out.extend(b"\\b"),
            b'\t' => out.extend(b"\\t"),
            b'\n' => out.extend(b"\\n"),
            0x0b => out.extend(b"\\v"),
            0x0c => out.extend(b"\\f"),
            b'\r' => out.extend(b"\\r"),
            0x20..0x7f => out.push(byte),
            _ => out.extend(format!("\\{byte:03o}").into_bytes()),
        }
    }
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_git_does() {
        for (path, quoted) in [
            (&b"plain name"[..], "a/plain name"),
            (b"tab\there", r#""a/tab\there""#),
            ("gr\u{fc}n".as_bytes(), r#""a/gr\303\274n""#),
            (b"q\"\\\n\x01\x7f", r#""a/q\"\\\n\001\177""#),
        ] {
            assert_eq!(String::from_utf8(quote("a/", path)).unwrap(), quoted);
        }
    }
}
