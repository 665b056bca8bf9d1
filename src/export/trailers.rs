//! What a commit says of the steps that it is made of, as git's trailers. Pure: no value can make a line of its own.

use std::collections::BTreeSet;

use super::authors::Session;

/// More steps than these are only counted.
const STEPS: usize = 100;
/// Characters of a prompt.
const PROMPT: usize = 100;
/// Of any other value.
const VALUE: usize = 200;

/// A step as its commit tells of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub step: String,
    pub session: Session,
    pub prompt: Option<String>,
}

/// The whole message. Steps of a session stand together, behind what is known of it. `co_authors`: with lines that make the agents co-authors.
pub fn message(subject: &str, snapshot: Option<&str>, steps: &[Told], co_authors: bool) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    lines.extend(snapshot.map(|id| ("Regentfs-Snapshot", id.to_owned())));
    let shown = steps.get(..STEPS).unwrap_or(steps);
    let mut sessions: Vec<&Session> = Vec::new();
    for told in shown {
        if !sessions.iter().any(|known| known.id == told.session.id) {
            sessions.push(&told.session);
        }
    }
    for session in &sessions {
        lines.push(("Regentfs-Session", session.id.clone()));
        if let Some(agent) = &session.agent {
            let version = session.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
            lines.push(("Regentfs-Agent", format!("{agent}{version}")));
        }
        lines.extend(session.model.clone().map(|model| ("Regentfs-Model", model)));
        let mut last = None;
        for told in shown.iter().filter(|told| told.session.id == session.id) {
            // Steps of one prompt follow it.
            if told.prompt != last {
                lines.extend(told.prompt.as_deref().map(|prompt| ("Regentfs-Prompt", first_line(prompt, PROMPT))));
                last.clone_from(&told.prompt);
            }
            lines.push(("Regentfs-Step", told.step.clone()));
        }
    }
    if steps.len() > shown.len() {
        lines.push(("Regentfs-More-Steps", (steps.len() - shown.len()).to_string()));
    }
    if co_authors {
        let authors: BTreeSet<String> = sessions.iter().filter_map(|s| s.agent.as_deref().map(co_author)).collect();
        lines.extend(authors.into_iter().map(|author| ("Co-authored-by", author)));
    }
    let mut text = format!("{}\n", first_line(subject, usize::MAX));
    let lines: Vec<_> = lines.into_iter().map(|(key, value)| (key, first_line(&value, VALUE))).collect();
    for (n, (key, value)) in lines.into_iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        text.push_str(if n == 0 { "\n" } else { "" });
        text.push_str(&format!("{key}: {value}\n"));
    }
    text
}

/// As the agents themselves do it; an address of others is none that anybody has.
fn co_author(agent: &str) -> String {
    match agent {
        "claude-code" => "Claude <noreply@anthropic.com>".to_owned(),
        "codex" => "Codex <noreply@openai.com>".to_owned(),
        "cursor-cli" => "Cursor <cursoragent@cursor.com>".to_owned(),
        other => {
            let word: String =
                other.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')).collect();
            format!("{word} <{word}@agents.invalid>")
        }
    }
}

/// The first line that says something, without what could end it, hide in it or turn it round; with at most so many characters.
fn first_line(text: &str, most: usize) -> String {
    let ends = |c: char| matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let is_hidden = |c: &char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}');
    let words = |line: &str| {
        let line: String =
            line.chars().filter(|c| !is_hidden(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let line = text.split(ends).map(words).find(|line| !line.is_empty()).unwrap_or_default();
    if line.chars().count() <= most {
        return line;
    }
    let short: String = line.chars().take(most.saturating_sub(1)).collect();
    format!("{}\u{2026}", short.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(step: &str, session: &str, agent: Option<&str>, prompt: Option<&str>) -> Told {
        let session = Session {
            id: session.to_owned(),
            by: if agent.is_some() { "agent" } else { "script" },
            agent: agent.map(str::to_owned),
            version: agent.map(|_| "2.1".to_owned()),
            model: agent.map(|_| "model-x".to_owned()),
            name: None,
        };
        Told { step: step.to_owned(), session, prompt: prompt.map(str::to_owned) }
    }

    #[test]
    fn steps_stand_with_their_sessions() {
        let steps = [
            told("c12", "s7", Some("claude-code"), Some("Do it\nand more")),
            told("c13", "s9", None, None),
            told("e3.7", "s7", Some("claude-code"), Some("Do it\nand more")),
            told("c14", "s7", Some("claude-code"), Some("Next")),
        ];
        let expected = "label\n\nRegentfs-Snapshot: abc\nRegentfs-Session: s7\nRegentfs-Agent: claude-code 2.1\nRegentfs-Model: model-x\n\
            Regentfs-Prompt: Do it\nRegentfs-Step: c12\nRegentfs-Step: e3.7\nRegentfs-Prompt: Next\nRegentfs-Step: c14\n\
            Regentfs-Session: s9\nRegentfs-Step: c13\n";
        assert_eq!(message("label", Some("abc"), &steps, false), expected);
        let with = message("label", Some("abc"), &steps, true);
        assert_eq!(with, format!("{expected}Co-authored-by: Claude <noreply@anthropic.com>\n"));
        assert_eq!(message("label", None, &[], true), "label\n");
        let own = message("x", None, &[told("c1", "s1", Some("my-agent"), None)], true);
        assert!(own.ends_with("\nCo-authored-by: my-agent <my-agent@agents.invalid>\n"), "{own}");
        let many: Vec<_> = (0..103).map(|n| told(&format!("c{n}"), "s1", None, None)).collect();
        let text = message("x", None, &many, false);
        assert_eq!(text.matches("\nRegentfs-Step: ").count(), 100);
        assert!(text.ends_with("\nRegentfs-More-Steps: 3\n"));
    }

    #[test]
    fn no_value_makes_a_line_of_its_own() {
        let ends =
            ["\n", "\r", "\r\n", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}", "\0", "\u{1b}[2K", "\u{202e}"];
        for end in ends {
            let evil = format!("{end} a{end}Signed-off-by: Eve <eve@example.com>{end}{end}---{end}diff --git a/b b/b");
            let mut step = told("c1", "s1", Some("codex"), Some(&evil));
            step.session.version = Some(evil.clone());
            step.session.model = Some(evil.clone());
            let text = message(&evil, Some("abc"), &[step], true);
            assert!(
                text.lines().skip(2).all(|line| line.starts_with("Regentfs-") || line.starts_with("Co-auth")),
                "{text:?}"
            );
            assert_eq!(text.lines().count(), 9, "{text:?}");
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            assert!(text.lines().nth(1) == Some("") && text.starts_with(['a', '[']), "{text:?}");
        }
    }

    #[test]
    fn prompts_are_cut() {
        let long = "w".repeat(300);
        assert_eq!(first_line(&long, PROMPT).chars().count(), 100);
        assert_eq!(first_line("\n \n  two   words\t\n", PROMPT), "two words");
        assert_eq!(first_line("gr\u{fc}n", 4), "gr\u{fc}n");
        assert_eq!(first_line("gr\u{fc}ne", 4), "gr\u{fc}\u{2026}");
        assert_eq!(first_line("\u{200b}\n", PROMPT), "");
        // A value that is nothing but that is left out.
        assert_eq!(
            message("x", None, &[told("c1", "s1", None, Some("\n"))], false),
            "x\n\nRegentfs-Session: s1\nRegentfs-Step: c1\n"
        );
    }
}
