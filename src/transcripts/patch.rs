//! Patches as Codex and others write them (`*** Begin Patch`): whether one does nothing but add a file.
//!
//! Pure; it knows no agent.

use std::path::PathBuf;

use super::What;

/// What a patch does, if that is adding one file; [`What::Other`] for all else.
pub(super) fn what(patch: &str) -> What {
    added(patch).map_or(What::Other, |(path, content)| What::Write { path, content })
}

/// The patch in a shell command that hands one to `apply_patch`.
pub(super) fn in_command(command: &str) -> Option<&str> {
    const BEGIN: &str = "*** Begin Patch";
    const END: &str = "*** End Patch";
    let rest = command.trim_start();
    let called = rest.strip_prefix("apply_patch").or_else(|| rest.strip_prefix("applypatch"))?;
    let begin = called.find(BEGIN)?;
    let end = called.rfind(END).map_or(called.len(), |at| at + END.len());
    called.get(begin..end)
}

fn added(patch: &str) -> Option<(PathBuf, Vec<u8>)> {
    let mut lines = patch.trim().lines();
    let mut path = None;
    let mut content = Vec::new();
    if lines.next()?.trim() != "*** Begin Patch" {
        return None;
    }
    for line in lines {
        if let Some(name) = line.strip_prefix("*** Add File: ") {
            if path.replace(PathBuf::from(name.trim())).is_some() {
                return None;
            }
        } else if line.trim_end() == "*** End Patch" {
            break;
        } else {
            content.extend_from_slice(line.strip_prefix('+')?.as_bytes());
            content.push(b'\n');
        }
    }
    path.map(|path| (path, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_added_file_is_a_write() {
        let patch = "*** Begin Patch\n*** Add File: a/b.txt\n+one\n+\n+two\n*** End Patch\n";
        let write = What::Write { path: "a/b.txt".into(), content: b"one\n\ntwo\n".to_vec() };
        assert_eq!(what(patch), write);
        let command = format!("apply_patch <<'EOF'\n{patch}EOF\n");
        assert_eq!(in_command(&command).map(what), Some(write));
    }

    #[test]
    fn all_else_is_not() {
        for patch in [
            "",
            "*** Begin Patch\n*** End Patch",
            "*** Begin Patch\n*** Update File: a\n@@\n-x\n+y\n*** End Patch",
            "*** Begin Patch\n*** Add File: a\n+x\n*** Add File: b\n+y\n*** End Patch",
            "*** Begin Patch\n*** Add File: a\n+x\n*** Delete File: b\n*** End Patch",
        ] {
            assert_eq!(what(patch), What::Other, "{patch}");
        }
        assert_eq!(in_command("echo apply_patch"), None);
        assert_eq!(in_command("apply_patch x"), None);
    }
}
