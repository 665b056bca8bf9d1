//! The merge against known results, against its own laws, and against the git that is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lines::{Hunk, Token};
use super::*;

const LABELS: (&str, &str) = ("ours", "theirs");

fn merged(base: &str, ours: &str, theirs: &str) -> Merged {
    merge(base.as_bytes(), ours.as_bytes(), theirs.as_bytes(), LABELS, Favor::None)
}

#[track_caller]
fn clean(base: &str, ours: &str, theirs: &str, want: &str) {
    for (a, b) in [(ours, theirs), (theirs, ours)] {
        match merged(base, a, b) {
            Merged::Clean(bytes) => assert_eq!(String::from_utf8(bytes).unwrap(), want),
            Merged::Conflicts { marked, .. } => panic!("a conflict:\n{}", String::from_utf8(marked).unwrap()),
        }
    }
}

#[track_caller]
fn conflicts(base: &str, ours: &str, theirs: &str, want: &str) -> Vec<Region> {
    match merged(base, ours, theirs) {
        Merged::Clean(bytes) => panic!("clean:\n{}", String::from_utf8(bytes).unwrap()),
        Merged::Conflicts { regions, marked } => {
            assert_eq!(String::from_utf8(marked).unwrap(), want);
            regions
        }
    }
}

fn region(base: Range<u64>, ours: Range<u64>, theirs: Range<u64>) -> Region {
    Region { base, ours, theirs }
}

#[test]
fn changes_apart_from_each_other_are_both_taken() {
    clean("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n", "A\nb\nc\nD\n");
    clean("a\nb\nc\n", "b\nc\n", "a\nb\nc\nd\n", "b\nc\nd\n");
    clean("a\nb\nc\n", "new\na\nb\nc\n", "a\nb\n", "new\na\nb\n");
    // One unchanged line between them is enough.
    clean("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n");
}

#[test]
fn the_same_change_on_both_sides_is_clean() {
    clean("a\nb\nc\n", "a\nB\nc\n", "a\nB\nc\n", "a\nB\nc\n");
    clean("a\nb\nc\nd\ne\n", "a\nB\nc\nd\ne\n", "a\nB\nc\nd\nE\n", "a\nB\nc\nd\nE\n");
    clean("a\nb\nc\nd\n", "b\nc\nd\n", "b\nc\n", "b\nc\n");
    clean("", "a\n", "a\n", "a\n");
}

#[test]
fn changes_that_touch_are_a_conflict() {
    let regions = conflicts(
        "a\nb\nc\nd\n",
        "a\nB\nc\nd\n",
        "a\nb\nC\nd\n",
        "a\n<<<<<<< ours\nB\nc\n=======\nb\nC\n>>>>>>> theirs\nd\n",
    );
    assert_eq!(regions, [region(2..4, 2..4, 2..4)]);
    // An insertion right before a changed line touches it.
    let regions = conflicts("a\nb\n", "a\nx\nb\n", "a\nB\n", "a\n<<<<<<< ours\nx\nb\n=======\nB\n>>>>>>> theirs\n");
    assert_eq!(regions, [region(2..3, 2..4, 2..3)]);
}

#[test]
fn insertions_at_the_same_place_are_a_conflict() {
    let regions = conflicts("a\nb\n", "a\nx\nb\n", "a\ny\nb\n", "a\n<<<<<<< ours\nx\n=======\ny\n>>>>>>> theirs\nb\n");
    assert_eq!(regions, [region(2..2, 2..3, 2..3)]);
    let regions = conflicts("", "x\n", "y\n", "<<<<<<< ours\nx\n=======\ny\n>>>>>>> theirs\n");
    assert_eq!(regions, [region(1..1, 1..2, 1..2)]);
}

#[test]
fn a_change_in_what_was_deleted_is_a_conflict() {
    let regions = conflicts("a\nb\nc\n", "a\nc\n", "a\nB\nc\n", "a\n<<<<<<< ours\n=======\nB\n>>>>>>> theirs\nc\n");
    assert_eq!(regions, [region(2..3, 2..2, 2..3)]);
    let regions = conflicts("a\n", "", "b\n", "<<<<<<< ours\n=======\nb\n>>>>>>> theirs\n");
    assert_eq!(regions, [region(1..2, 1..1, 1..2)]);
}

#[test]
fn one_change_can_meet_several() {
    let regions = conflicts(
        "a\nb\nc\nd\ne\nf\n",
        "a\nX\nY\nf\n",
        "a\nB\nc\nd\nE\nf\n",
        "a\n<<<<<<< ours\nX\nY\n=======\nB\nc\nd\nE\n>>>>>>> theirs\nf\n",
    );
    assert_eq!(regions, [region(2..6, 2..4, 2..6)]);
}

#[test]
fn line_numbers_are_those_of_each_text() {
    let regions = conflicts(
        "a\nb\nc\nd\ne\nf\ng\nh\n",
        "new\nnew\na\nb\nc\nX\ne\nf\ng\nh\n",
        "a\nc\nd\nY\nf\ng\nh\n",
        "new\nnew\na\nc\n<<<<<<< ours\nX\ne\n=======\nd\nY\n>>>>>>> theirs\nf\ng\nh\n",
    );
    assert_eq!(regions, [region(4..6, 6..8, 3..5)]);
}

#[test]
fn lines_alike_are_taken_out_of_a_conflict() {
    // Both added the same head and foot around lines of their own.
    let regions = conflicts(
        "a\nz\n",
        "a\n1\n2\n3\n4\nours\n5\n6\n7\n8\nz\n",
        "a\n1\n2\n3\n4\ntheirs\n5\n6\n7\n8\nz\n",
        "a\n1\n2\n3\n4\n<<<<<<< ours\nours\n=======\ntheirs\n>>>>>>> theirs\n5\n6\n7\n8\nz\n",
    );
    assert_eq!(regions, [region(2..2, 6..7, 6..7)]);
    // Four lines between two conflicts keep them apart; three do not, and more do not either if they are but brackets.
    for (between, apart) in [("1\n2\n3\n4\n", true), ("1\n2\n3\n", false), ("}\n\n{\n\n(\n", false)] {
        let base = format!("a\nx\n{between}y\nz\n");
        let (ours, theirs) = (base.replace('x', "O1").replace('y', "O2"), base.replace('x', "T1").replace('y', "T2"));
        let hunk = |o: &str, t: &str| format!("<<<<<<< ours\n{o}=======\n{t}>>>>>>> theirs\n");
        let want = if apart {
            format!("a\n{}{between}{}z\n", hunk("O1\n", "T1\n"), hunk("O2\n", "T2\n"))
        } else {
            format!("a\n{}z\n", hunk(&format!("O1\n{between}O2\n"), &format!("T1\n{between}T2\n")))
        };
        let lines = between.lines().count() as u64;
        let (first, last) = (2..3, 3 + lines..4 + lines);
        let same = |lines: Range<u64>| region(lines.clone(), lines.clone(), lines);
        let regions = conflicts(&base, &ours, &theirs, &want);
        assert_eq!(regions, if apart { vec![same(first), same(last)] } else { vec![same(first.start..last.end)] });
    }
}

#[test]
fn the_same_lines_by_other_ways_are_clean() {
    // Ours is one change, theirs are two of which one is the same; all that touches is alike in the end.
    let diff = |_: &[Token], new: &[Token]| match new.len() {
        3 => vec![Hunk { before: 0..3, after: 0..3 }],
        _ => Vec::new(),
    };
    let texts = Texts::new(b"a\nb\nc\n", b"x\nb\ny\n", b"x\nb\ny\n");
    let mut calls = 0;
    let mut differ = |old: &[Token], new: &[Token]| {
        calls += 1;
        match calls {
            1 => diff(old, new),
            2 => vec![Hunk { before: 0..1, after: 0..1 }, Hunk { before: 2..3, after: 2..3 }],
            _ => Vec::new(),
        }
    };
    assert_eq!(merge_lines(&texts, LABELS, Favor::None, &mut differ), Merged::Clean(b"x\nb\ny\n".to_vec()));
    assert_eq!(calls, 3);
}

#[test]
fn a_missing_newline_at_the_end_is_kept() {
    clean("a\nb\nc", "A\nb\nc", "a\nb\nc", "A\nb\nc");
    clean("a\nb\nc\n", "A\nb\nc\n", "a\nb\nc", "A\nb\nc");
    clean("a\nb\nc", "A\nb\nc", "a\nb\nc\n", "A\nb\nc\n");
    clean("a\nb\nc", "A\nb\nc", "a\nb\nc\nd", "A\nb\nc\nd");
    // Taking the newline away changes the last line, and adding a line touches that.
    let regions = conflicts("a\nb\n", "a\nb", "a\nb\nc\n", "a\n<<<<<<< ours\nb\n=======\nb\nc\n>>>>>>> theirs\n");
    assert_eq!(regions, [region(2..3, 2..3, 2..4)]);
    conflicts("a", "b", "c", "<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n");
}

#[test]
fn carriage_returns_are_bytes_of_the_line() {
    clean("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\n", "A\r\nb\r\nC\r\n");
    // A side that changed all line ends has changed every line.
    conflicts("a\nb\n", "a\r\nb\r\n", "a\nB\n", "<<<<<<< ours\na\r\nb\r\n=======\na\nB\n>>>>>>> theirs\n");
    // Markers follow the text; where a last line without an end says nothing, the one before it does.
    conflicts(
        "a\r\nb\r\nc",
        "a\r\nb\r\nc\r\nx",
        "a\r\nb\r\nc\r\ny",
        "a\r\nb\r\nc\r\n<<<<<<< ours\r\nx\r\n=======\r\ny\r\n>>>>>>> theirs\r\n",
    );
    conflicts("a\r\n", "x", "y", "<<<<<<< ours\r\nx\r\n=======\r\ny\r\n>>>>>>> theirs\r\n");
    conflicts("a\n", "x", "y", "<<<<<<< ours\nx\n=======\ny\n>>>>>>> theirs\n");
    conflicts("a\r\nb\r\n", "a\r\nx", "a\r\ny\r\n", "a\r\n<<<<<<< ours\r\nx\r\n=======\r\ny\r\n>>>>>>> theirs\r\n");
}

#[test]
fn any_bytes_are_merged() {
    let (base, ours, theirs) = (b"\xff\0\n\n\xfe\n", b"\xff\0\xc3\n\n\xfe\n", b"\xff\0\n\n\xfe\x80\n");
    let result = merge(base, ours, theirs, LABELS, Favor::None);
    assert_eq!(result, Merged::Clean(b"\xff\0\xc3\n\n\xfe\x80\n".to_vec()));
}

#[test]
fn favor_decides_conflicts_and_nothing_else() {
    let (base, ours, theirs) = (b"a\nb\nc\nd\ne\n", b"A\nb\nO\nd\ne\n", b"a\nb\nT\nd\nE\n");
    let with = |favor| merge(base, ours, theirs, LABELS, favor);
    assert_eq!(with(Favor::Ours), Merged::Clean(b"A\nb\nO\nd\nE\n".to_vec()));
    assert_eq!(with(Favor::Theirs), Merged::Clean(b"A\nb\nT\nd\nE\n".to_vec()));
    assert!(matches!(with(Favor::None), Merged::Conflicts { .. }));
}

#[test]
fn too_many_lines_are_one_conflict() {
    let many = b"x\n".repeat(MOST_LINES + 1);
    let (ours, theirs) = ([b"a\n", &many[..]].concat(), [&many[..], b"b\n"].concat());
    match merge(&many, &ours, &theirs, LABELS, Favor::None) {
        Merged::Clean(_) => panic!("compared"),
        Merged::Conflicts { regions, marked } => {
            let (n, more) = (MOST_LINES as u64 + 2, MOST_LINES as u64 + 3);
            assert_eq!(regions, [region(1..n, 1..more, 1..more)]);
            let want = [b"<<<<<<< ours\n", &ours[..], b"=======\n", &theirs, b">>>>>>> theirs\n"].concat();
            assert!(marked == want);
        }
    }
    assert!(merge(&many, &ours, &theirs, LABELS, Favor::Theirs) == Merged::Clean(theirs.clone()));
    assert!(merge(&many, &ours, &many, LABELS, Favor::None) == Merged::Clean(ours.clone()));
    // As many as allowed are compared.
    let most = b"x\n".repeat(MOST_LINES - 1);
    let (ours, theirs) = ([b"a\n", &most[..]].concat(), [&most[..], b"b\n"].concat());
    let want = [b"a\n", &most[..], b"b\n"].concat();
    assert!(merge(&most, &ours, &theirs, LABELS, Favor::None) == Merged::Clean(want));
}

#[test]
fn text_has_no_nul_at_its_beginning() {
    assert!(is_text(b""));
    assert!(is_text(b"caf\xe9\r\n"));
    assert!(!is_text(b"a\0b"));
    let mut bytes = vec![b'x'; 9000];
    bytes[8000] = 0;
    assert!(is_text(&bytes));
    bytes[7999] = 0;
    assert!(!is_text(&bytes));
}

/// One change to a list of lines: what, where (in 256ths of the list), and which line.
type Edit = (u8, u8, u8);

/// A base and two descendants.
#[derive(Clone, Debug)]
struct Case {
    base: Vec<u8>,
    ours: Vec<u8>,
    theirs: Vec<u8>,
}

/// Few different lines make many ways to compare two texts, and many conflicts; half of the last ones are blank or brackets.
fn line(number: u8, crlf: bool) -> String {
    let text = ["alpha", "beta", "gamma", "delta", "", "}", "eta", "{", "iota", "kappa"][usize::from(number) % 10];
    format!("{text}{}", if crlf { "\r\n" } else { "\n" })
}

fn text(lines: &[u8], end: bool, crlf: u8) -> Vec<u8> {
    // Of eight texts, one has CRLF throughout and one here and there.
    let crlf = |at: usize| crlf == 0 || (crlf == 1 && at.is_multiple_of(3));
    let mut text: String = lines.iter().enumerate().map(|(at, &number)| line(number, crlf(at))).collect();
    if !end {
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
    }
    text.into_bytes()
}

fn edited(lines: &[u8], edits: &[Edit], kinds: u8) -> Vec<u8> {
    let mut lines = lines.to_vec();
    for &(what, place, number) in edits {
        let at = (lines.len() + 1) * usize::from(place) / 256;
        match what % 4 {
            0 => lines.insert(at, number % kinds),
            1 if at < lines.len() => drop(lines.remove(at)),
            2 => lines.splice(at..(at + 3).min(lines.len()), [number % kinds, place % kinds]).for_each(drop),
            _ if at < lines.len() => lines[at] = number % kinds,
            _ => {}
        }
    }
    lines
}

fn cases() -> impl Strategy<Value = Case> {
    let edits = || vec(any::<Edit>(), 0..5);
    let ends = || (prop::bool::weighted(0.8), prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    // Edits that both sides have, too.
    (vec(any::<u8>(), 0..40), edits(), edits(), vec(any::<Edit>(), 0..2), 2..=10_u8, ends(), 0..8_u8).prop_map(
        |(numbers, ours, theirs, both, kinds, ends, crlf)| {
            let base: Vec<u8> = numbers.iter().map(|number| number % kinds).collect();
            let shared = edited(&base, &both, kinds);
            Case {
                base: text(&base, ends.0, crlf),
                ours: text(&edited(&shared, &ours, kinds), ends.1, crlf),
                theirs: text(&edited(&shared, &theirs, kinds), ends.2, crlf),
            }
        },
    )
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

fn three(case: &Case, favor: Favor) -> Merged {
    merge(&case.base, &case.ours, &case.theirs, LABELS, favor)
}

#[test]
fn the_laws_hold() {
    let law = |case: Case| {
        let Case { base, ours, theirs } = &case;
        let of = |a: &[u8], b: &[u8], c: &[u8]| merge(a, b, c, LABELS, Favor::None);
        prop_assert_eq!(of(base, base, theirs), Merged::Clean(theirs.clone()));
        prop_assert_eq!(of(base, ours, base), Merged::Clean(ours.clone()));
        prop_assert_eq!(of(base, ours, ours), Merged::Clean(ours.clone()));
        // Through the comparison as well, which the short cuts for these spare.
        for (ours, theirs, want) in [(base, theirs, theirs), (ours, base, ours), (ours, ours, ours)] {
            let result = merge_lines(&Texts::new(base, ours, theirs), LABELS, Favor::None, &mut lines::diff);
            prop_assert_eq!(result, Merged::Clean(want.clone()));
        }
        match (three(&case, Favor::None), of(base, theirs, ours)) {
            (Merged::Clean(one), Merged::Clean(other)) => {
                prop_assert_eq!(&one, &other);
                prop_assert_eq!(three(&case, Favor::Ours), Merged::Clean(one.clone()));
                prop_assert_eq!(three(&case, Favor::Theirs), Merged::Clean(one));
            }
            (Merged::Conflicts { regions, marked }, Merged::Conflicts { regions: swapped, .. }) => {
                prop_assert!(!swapped.is_empty());
                check_regions(&case, &regions, &marked)?;
            }
            (one, other) => prop_assert!(false, "clean in one order only: {one:?} {other:?}"),
        }
        Ok(())
    };
    runner(3000).run(&cases(), law).unwrap();
}

/// The regions say which lines are between the markers, and a side's lines instead of each conflict give the merge that favours it.
fn check_regions(case: &Case, regions: &[Region], marked: &[u8]) -> Result<(), TestCaseError> {
    let at = |text: &[u8], range: &Range<u64>| -> Vec<u8> {
        lines::split(text)
            .skip(range.start as usize - 1)
            .take((range.end - range.start) as usize)
            .flatten()
            .copied()
            .collect()
    };
    let is = |line: &[u8], marker: &[u8]| line.trim_ascii_end() == marker;
    let with_end = |text: &[u8]| [text, if text.is_empty() || text.ends_with(b"\n") { b"" } else { b"\n" }].concat();
    let (mut favor_ours, mut favor_theirs) = (Vec::new(), Vec::new());
    let mut rest = regions.iter();
    let mut lines = lines::split(marked);
    while let Some(line) = lines.next() {
        if !is(line, b"<<<<<<< ours") {
            favor_ours.extend_from_slice(line);
            favor_theirs.extend_from_slice(line);
            continue;
        }
        let region = rest.next().expect("a region for each conflict");
        let ours = lines.by_ref().take_while(|line| !is(line, b"=======")).collect::<Vec<_>>().concat();
        let theirs = lines.by_ref().take_while(|line| !is(line, b">>>>>>> theirs")).collect::<Vec<_>>().concat();
        let plain = |bytes: &[u8]| bytes.iter().copied().filter(|&b| b != b'\r').collect::<Vec<u8>>();
        prop_assert_eq!(plain(&ours), plain(&with_end(&at(&case.ours, &region.ours))));
        prop_assert_eq!(plain(&theirs), plain(&with_end(&at(&case.theirs, &region.theirs))));
        prop_assert!(region.base.end <= lines::count(&case.base) as u64 + 1);
        favor_ours.extend(at(&case.ours, &region.ours));
        favor_theirs.extend(at(&case.theirs, &region.theirs));
    }
    prop_assert!(rest.next().is_none());
    let apart = |pair: &[Region]| pair[0].ours.end < pair[1].ours.start && pair[0].base.end <= pair[1].base.end;
    prop_assert!(regions.windows(2).all(apart));
    prop_assert_eq!(three(case, Favor::Ours), Merged::Clean(favor_ours));
    prop_assert_eq!(three(case, Favor::Theirs), Merged::Clean(favor_theirs));
    Ok(())
}

/// A git that reads no configuration, in a directory that is no repository.
fn git(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap())
        .output()
        .unwrap();
    // A signal or 128 and above is a failure; below, the number of conflicts, or that there is a difference.
    assert!(output.status.code().is_some_and(|code| code < 128), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// How git compares two texts. Made from all lines of its patch: without context, git takes another way.
fn git_diff(dir: &Path, old: &[Token], new: &[Token]) -> Vec<Hunk> {
    let text = |tokens: &[Token]| tokens.iter().map(|token| format!("{}\n", token.0)).collect::<String>();
    fs::write(dir.join("old"), text(old)).unwrap();
    fs::write(dir.join("new"), text(new)).unwrap();
    let options = ["diff", "--no-index", "--no-color", "--diff-algorithm=myers", "--no-indent-heuristic", "-U1000"];
    let patch = git(dir, &[&options[..], &["old", "new"]].concat());
    let body = lines::split(&patch).skip_while(|line| !line.starts_with(b"@@")).skip(1);
    let mut hunks: Vec<Hunk> = Vec::new();
    let (mut before, mut after) = (0, 0);
    for line in body {
        let (gone, come) = match line.first() {
            Some(b'-') => (1, 0),
            Some(b'+') => (0, 1),
            _ => {
                (before, after) = (before + 1, after + 1);
                continue;
            }
        };
        match hunks.last_mut() {
            Some(last) if last.before.end == before && last.after.end == after => {
                last.before.end += gone;
                last.after.end += come;
            }
            _ => hunks.push(Hunk { before: before..before + gone, after: after..after + come }),
        }
        (before, after) = (before + gone, after + come);
    }
    hunks
}

/// The bytes of `git merge-file -p` and of our merge are the same, conflicts included.
///
/// There are often several equally short ways to compare two texts, and imara-diff does not always take git's. Where the results differ, the merge is done again with
/// git's own comparisons, and then not one byte may differ. That has to be rare.
#[test]
fn agrees_with_git_merge_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut clean, mut conflicting, mut elsewise) = (0, 0, 0);
    let cases_wanted = 500;
    let mut counting = |case: Case| {
        for (name, text) in [("base", &case.base), ("ours", &case.ours), ("theirs", &case.theirs)] {
            fs::write(dir.join(name), text).unwrap();
        }
        let want =
            git(dir, &["merge-file", "-p", "-L", "ours", "-L", "base", "-L", "theirs", "ours", "base", "theirs"]);
        let bytes = |merged: Merged| match merged {
            Merged::Clean(bytes) => (true, bytes),
            Merged::Conflicts { marked, .. } => (false, marked),
        };
        let (is_clean, got) = bytes(three(&case, Favor::None));
        *(if is_clean { &mut clean } else { &mut conflicting }) += 1;
        if got != want {
            elsewise += 1;
            let texts = Texts::new(&case.base, &case.ours, &case.theirs);
            let result = merge_lines(&texts, LABELS, Favor::None, &mut |old, new| git_diff(dir, old, new));
            let (_, got) = bytes(result);
            prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want));
        }
        Ok(())
    };
    let counting = std::cell::RefCell::new(&mut counting);
    runner(cases_wanted).run(&cases(), |case| (counting.borrow_mut())(case)).unwrap();
    assert!(clean > cases_wanted / 10 && conflicting > cases_wanted / 10, "{clean} clean, {conflicting} not");
    assert!(
        elsewise < cases_wanted / 10,
        "{elsewise} of {cases_wanted} differ from git before its own comparison is used"
    );
}
