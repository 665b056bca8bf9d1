//! Taking secrets out of command lines before anybody keeps them: by rule, so some that follow none stay.
//!
//! Pure. What looks like a secret because of its form (a token with a known prefix, a private key, a JSON web token), or because of its name (`--password X`,
//! `API_KEY=X`, `Authorization: X`, `scheme://user:X@host`), becomes [`REDACTED`]; what stands around it stays.

use std::sync::LazyLock;

use regex::bytes::{Regex, RegexBuilder};

/// What stands in the place of a secret.
pub const REDACTED: &[u8] = b"[redacted]";

/// Names under which secrets go, whatever stands before them, and more behind a `-`, a `_` or a digit. Of the short ones only whole words: a compass
/// and an author are none.
const NAMES: &str = r"(?:[a-z0-9_.-]*(?:pass(?:word|wd|phrase|code)|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|authorization|credentials?|bearer)|\b(?:[a-z0-9_.-]*[-_.])?(?:pass|pwd|auth))(?:[-_0-9][a-z0-9_-]*)?";

fn regex(pattern: &str) -> Regex {
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(true).unicode(false).size_limit(8 << 20);
    // The patterns are constants, and a test builds them all.
    builder.build().expect("a pattern of our own")
}

struct Rules {
    /// The whole match is a secret.
    forms: Regex,
    /// The group `secret` of a match is one.
    named: Vec<Regex>,
    /// An argument whose next one is a secret.
    before: Regex,
    /// `curl -u user:password`: of the next argument, what is behind the colon.
    user: Regex,
}

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let forms = [
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        r"\bsk-[a-z0-9_-]{16,}",
        r"\bgh[pousr]_[a-z0-9]{20,}",
        r"\bgithub_pat_[a-z0-9_]{20,}",
        r"\bglpat-[a-z0-9_-]{16,}",
        r"\bxox[abeoprs]-[a-z0-9-]{10,}",
        r"\b(?-i:AKIA|ASIA)[A-Z0-9]{16}\b",
        r"\b(?-i:AIza)[a-z0-9_-]{30,}",
        r"\b(?:npm|hf|pypi|dckr_pat|shpat|sq0csp|rk_live|sk_live|pk_live|sk_test)_?[-_][a-z0-9_-]{16,}",
        r"\b(?-i:eyJ)[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}\.[a-z0-9_-]*",
    ];
    Rules {
        forms: regex(&forms.join("|")),
        named: vec![
            // Authorization: Bearer X, and other headers up to the end of the line or the quote.
            regex(&format!(r#"{NAMES}\s*:\s*(?:bearer\s+|basic\s+|token\s+)?(?P<secret>[^\s"']+)"#)),
            // NAME=X, --name=X, "name":"X".
            regex(&format!(r#"{NAMES}["']?\s*[=]\s*["']?(?P<secret>[^\s"'&;|]+)"#)),
            regex(&format!(r#"["']{NAMES}["']\s*:\s*["'](?P<secret>[^"']+)"#)),
            // --name X inside a longer text, as in `sh -c`.
            regex(&format!(r#"--{NAMES}\s+["']?(?P<secret>[^\s"'-][^\s"']*)"#)),
            regex(r"[a-z][a-z0-9+.-]*://[^\s/:@]*:(?P<secret>[^\s/@]+)@"),
        ],
        before: regex(&format!(r"^--?{NAMES}$")),
        user: regex(r"^(?:-u|--user|--proxy-user|-U)$"),
    }
});

/// Takes secrets out of a command line. Arguments stay as many as they were.
pub fn argv(args: &mut [Vec<u8>]) {
    let rules = &*RULES;
    let (mut secret, mut user) = (false, false);
    for arg in args.iter_mut() {
        let is_option = arg.first() == Some(&b'-');
        if secret && !is_option && !arg.is_empty() {
            *arg = REDACTED.to_vec();
        } else if user && let Some(colon) = arg.iter().position(|&b| b == b':') {
            arg.truncate(colon + 1);
            arg.extend_from_slice(REDACTED);
        } else if let Some(clean) = text(arg) {
            *arg = clean;
        }
        secret = rules.before.is_match(arg);
        user = rules.user.is_match(arg);
    }
}

/// A text without its secrets; `None` when it has none.
pub fn text(text: &[u8]) -> Option<Vec<u8>> {
    let rules = &*RULES;
    let mut clean = None;
    if rules.forms.is_match(text) {
        clean = Some(rules.forms.replace_all(text, regex::bytes::NoExpand(REDACTED)).into_owned());
    }
    for named in &rules.named {
        let now = clean.as_deref().unwrap_or(text);
        let secrets = named.captures_iter(now).filter_map(|found| found.name("secret"));
        let spans: Vec<_> =
            secrets.map(|secret| secret.range()).filter(|r| now.get(r.clone()) != Some(REDACTED)).collect();
        if spans.is_empty() {
            continue;
        }
        let (mut out, mut at) = (Vec::with_capacity(now.len()), 0);
        for span in spans {
            out.extend_from_slice(now.get(at..span.start).unwrap_or_default());
            out.extend_from_slice(REDACTED);
            at = span.end;
        }
        out.extend_from_slice(now.get(at..).unwrap_or_default());
        clean = Some(out);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Vec<String> {
        let mut args: Vec<Vec<u8>> = args.iter().map(|a| a.as_bytes().to_vec()).collect();
        argv(&mut args);
        args.into_iter().map(|a| String::from_utf8(a).unwrap()).collect()
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["mysql", "--password", "hunter2", "db"], &["mysql", "--password", "[redacted]", "db"]),
            (&["mysql", "--password=hunter2", "db"], &["mysql", "--password=[redacted]", "db"]),
            (&["env", "AWS_SECRET_ACCESS_KEY=abc/def+1", "aws"], &["env", "AWS_SECRET_ACCESS_KEY=[redacted]", "aws"]),
            (
                &["curl", "-H", "Authorization: Bearer abc.def-ghi", "https://host/x"],
                &["curl", "-H", "Authorization: Bearer [redacted]", "https://host/x"],
            ),
            (&["curl", "-H", "X-Api-Key: 12345"], &["curl", "-H", "X-Api-Key: [redacted]"]),
            (&["curl", "-u", "ada:pw", "http://h"], &["curl", "-u", "ada:[redacted]", "http://h"]),
            (&["git", "clone", "https://ada:pw@host/r.git"], &["git", "clone", "https://ada:[redacted]@host/r.git"]),
            (
                &["bash", "-c", "export TOKEN='abc' && curl --oauth-token xyz https://h"],
                &["bash", "-c", "export TOKEN='[redacted]' && curl --oauth-token [redacted] https://h"],
            ),
            (&["sh", "-c", r#"echo '{"password": "x y"}'"#], &["sh", "-c", r#"echo '{"password": "[redacted]"}'"#]),
            (
                &["env", "PGPASSWORD=x", "DB_PASS=y", "make"],
                &["env", "PGPASSWORD=[redacted]", "DB_PASS=[redacted]", "make"],
            ),
            (&["smbclient", "--db-pass", "x"], &["smbclient", "--db-pass", "[redacted]"]),
            (&["echo", "ghp_0123456789abcdefghij0123"], &["echo", "[redacted]"]),
            (&["echo", "sk-ant-api03-0123456789abcdef"], &["echo", "[redacted]"]),
            (&["x", "AKIAABCDEFGHIJKLMNOP."], &["x", "[redacted]."]),
        ];
        for (given, expected) in cases {
            assert_eq!(line(given), *expected);
            // Once more changes nothing.
            assert_eq!(line(expected), *expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for given in [
            &["git", "commit", "-m", "tokens are parsed"][..],
            &["cargo", "test", "--", "token", "password_reset"],
            &["grep", "-rn", "password", "src"],
            &["ls", "-la", "--author", "src"],
            &["python3", "train.py", "--tokenizer", "gpt2", "--tokenizer=gpt2", "--compass=north"],
            &["sk-", "ghp_", "https://host:8080/path@v1"],
            &["rsync", "-a", "host:src", "dst"],
            &["", "-", "--", "--passwords"],
        ] {
            assert_eq!(line(given), given);
        }
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut args = vec![b"\xff\xfetoken=\xff\xff x".to_vec(), Vec::new(), vec![0xff; 70_000]];
        argv(&mut args);
        assert_eq!(args[0], b"\xff\xfetoken=[redacted] x");
        assert_eq!(args[2].len(), 70_000);
    }
}
