//! Names of points in time: how they are read, what they find, and what is said when they find nothing.

use super::*;

const NOW: Time = Time { secs: 1_700_000_000, nanos: 7 };

fn name(text: &str) -> Spec {
    Spec::Name(text.to_owned())
}

fn back(from: Spec, steps: u32) -> Spec {
    Spec::Back(Box::new(from), steps)
}

#[track_caller]
fn reads(text: &str, want: Spec) {
    assert_eq!(parse(text, NOW), Ok(want), "{text}");
}

#[track_caller]
fn refuses(text: &str, want: &str) {
    assert_eq!(parse(text, NOW).unwrap_err().to_string(), want, "{text}");
}

#[test]
fn places_and_steps_are_read() {
    reads("base", Spec::Base);
    reads("now", Spec::Now);
    reads("before the refactoring", name("before the refactoring"));
    reads("v1.2", name("v1.2"));
    reads("k3f9", name("k3f9"));
    reads("zyxw", name("zyxw"));
    // Of the form of an id: no label, but a name.
    reads("zyxwvuts", name("zyxwvuts"));
    reads("now~2", back(Spec::Now, 2));
    reads("k3f9~1", back(name("k3f9"), 1));
    reads("now~", back(Spec::Now, 1));
    reads("now~~", back(Spec::Now, 2));
    reads("now~2~3", back(Spec::Now, 5));
    reads("x~0", name("x"));
    reads("base~1", back(Spec::Base, 1));
    reads("@{yesterday}~3", back(Spec::Time(Time::new(1_699_913_600, 7)), 3));
}

#[test]
fn times_are_read() {
    for (text, secs, nanos) in [
        ("@{10 minutes ago}", 1_699_999_400, 7),
        ("@{2 hours ago}", 1_699_992_800, 7),
        ("@{yesterday}", 1_699_913_600, 7),
        ("@{now}", 1_700_000_000, 7),
        ("@{ 10m }", 1_699_999_400, 7),
        ("@{2023-11-14 10:30}", 1_699_957_800, 0),
        ("@{2023-11-14T10:30:00.25+01:00}", 1_699_954_200, 250_000_000),
    ] {
        reads(text, Spec::Time(Time::new(secs, nanos)));
    }
}

#[test]
fn what_names_nothing_is_refused() {
    let empty = "an empty name for a point in time; say base, now, @{TIME}, a label or the id of a snapshot";
    refuses("", empty);
    refuses("~2", empty);
    let time = |text: &str| {
        format!(
            "cannot read the time in {text}; say it like @{{10 minutes ago}}, @{{yesterday}} or @{{2026-11-22 10:30}} (UTC)"
        )
    };
    for text in ["@{}", "@{soon}", "@{yesterday", "@yesterday", "@", "@{yesterday}x"] {
        refuses(text, &time(text));
    }
    refuses(
        "@{2023-11-15 10:30}",
        "@{2023-11-15 10:30} is 2023-11-15T10:30:00Z, which is yet to come; times without an offset are UTC",
    );
    for text in ["now~x", "now~-1", "now~+1", "now~1 ", "now~4294967296", "now~4294967295~1"] {
        refuses(text, &format!("{text}: ~ takes a number of snapshots to go back, as in now~2"));
    }
    reads("now~4294967295", back(Spec::Now, u32::MAX));
    refuses("a..b", "a..b is a range; one point in time is wanted here");
    refuses("a:b", "\"a:b\" cannot be the name of a snapshot: it contains a colon");
    refuses("-a", "\"-a\" cannot be the name of a snapshot: it begins with -, as options do");
    refuses("a\nb", "\"a\\nb\" cannot be the name of a snapshot: it contains a control character");
}

#[test]
fn labels_are_checked() {
    for good in
        ["a", "z", "before refactoring", "größer", "v1.2", "a-b", "a@b", "zyxwvut", "zyxwvutsr", "ZYXWVUTS", "Base"]
    {
        assert_eq!(valid_label(good), Ok(()), "{good}");
    }
    assert_eq!(valid_label(&"ü".repeat(100)), Ok(()));
    let long = "x".repeat(101);
    let bad = [
        "", &long, "a\tb", "a\u{7f}", "\u{85}", "-a", "-", "base", "now", "@", "@{now}", "a..b", "..", "a:b", "a~",
        "~1", "zyxwvuts", "kkkkkkkk",
    ];
    let reasons: std::collections::HashSet<_> = bad.iter().map(|text| valid_label(text).expect_err(text)).collect();
    assert_eq!(reasons.len(), 10, "{reasons:?}");
}

/// What may be a label comes back as that name, so nothing can get a label by which it cannot be found.
#[test]
fn every_label_can_be_named() {
    use proptest::prelude::*;
    let text =
        proptest::collection::vec(prop::sample::select("abz~@{}.:-0 \t now base é".chars().collect::<Vec<_>>()), 0..12);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(letters in text)| {
        let label: String = letters.into_iter().collect();
        match parse(&label, NOW) {
            Ok(spec) => {
                let is_id = label.len() == ID_LEN && may_be_id(&label);
                prop_assert_eq!(valid_label(&label).is_ok() || is_id, spec == name(&label), "{:?}", spec);
            }
            Err(_) => prop_assert!(valid_label(&label).is_err(), "{label:?}"),
        }
    });
}

#[test]
fn ranges_are_split() {
    assert_eq!(range("a..b"), (Some("a"), Some("b")));
    assert_eq!(range("a.."), (Some("a"), None));
    assert_eq!(range("..b"), (None, Some("b")));
    assert_eq!(range(".."), (None, None));
    assert_eq!(range("a"), (Some("a"), None));
    assert_eq!(range(""), (None, None));
    assert_eq!(range("@{2023-11-14 10:30}..now~2"), (Some("@{2023-11-14 10:30}"), Some("now~2")));
    // No point can be named `b..c`.
    assert_eq!(range("a..b..c"), (Some("a"), Some("b..c")));
    assert!(matches!(parse("b..c", NOW), Err(SpecError::Range { .. })));
}

#[test]
fn ids_are_eight_letters_of_a_hash() {
    // Fixed for ever: people write them down.
    assert_eq!(id_of("", Epoch(0)), GOLDEN[0]);
    assert_eq!(id_of("store", Epoch(1)), GOLDEN[1]);
    assert_eq!(id_of("store", Epoch(u64::MAX)), GOLDEN[2]);
    let ids: std::collections::HashSet<String> = (0..1000).map(|epoch| id_of("store", Epoch(epoch))).collect();
    assert!(ids.len() > 990);
    assert!(ids.iter().all(|id| id.len() == ID_LEN && may_be_id(id) && valid_label(id).is_err()));
    assert_ne!(id_of("store", Epoch(1)), id_of("other", Epoch(1)));
}

/// The first digits of the hashes are 71e0a991, d1ac3e98 and 9554db19.
const GOLDEN: [&str; 3] = ["sylzpqqy", "mypnwlqr", "quuvmoyq"];

/// A snapshot an hour after another one for each epoch, from the beginning of 2023.
fn snapshot(epoch: u64, timeline: u64, previous: u64, id: &str, label: Option<&str>) -> Candidate {
    Candidate {
        id: id.to_owned(),
        label: label.map(str::to_owned),
        epoch: Epoch(epoch),
        timeline: Timeline(timeline),
        previous: Epoch(previous),
        time: hour(epoch),
    }
}

fn hour(number: u64) -> Time {
    Time::new(1_672_531_200 + number as i64 * 3600, 0)
}

/// Two timelines; the second forks off the first after epoch 3.
fn history() -> Vec<Candidate> {
    vec![
        snapshot(1, 1, 0, "zyxwvuts", Some("start")),
        snapshot(3, 1, 1, "zyxkkkkk", None),
        snapshot(4, 1, 3, "kzzzzzzz", Some("before refactoring")),
        snapshot(6, 2, 3, "mmmmmmmm", Some("zyxw")),
        snapshot(7, 1, 4, "ssssssss", Some("after refactoring")),
        snapshot(9, 2, 6, "szzzzzzz", None),
    ]
}

const MAIN: Epoch = Epoch(7);
const SECOND: Epoch = Epoch(9);

#[track_caller]
fn finds(last: Epoch, text: &str, epoch: u64) {
    let names = history();
    match resolve(&names, last, &parse(text, NOW).unwrap()) {
        Ok(Point::Snapshot(found)) => assert_eq!(found.epoch, Epoch(epoch), "{text}"),
        other => panic!("{text}: {other:?}"),
    }
}

#[track_caller]
fn misses(last: Epoch, text: &str) -> SpecError {
    resolve(&history(), last, &parse(text, NOW).unwrap()).unwrap_err()
}

#[test]
fn names_are_found() {
    finds(MAIN, "start", 1);
    finds(MAIN, "kzzzzzzz", 4);
    finds(MAIN, "k", 4);
    finds(MAIN, "zyxk", 3);
    finds(MAIN, "before refactoring", 4);
    // On the other timeline, too.
    finds(MAIN, "sz", 9);
    // A label before the beginning of an id.
    finds(MAIN, "zyxw", 6);
    finds(MAIN, "zyxwv", 1);
    let names = history();
    assert_eq!(resolve(&names, MAIN, &Spec::Base), Ok(Point::Base));
    assert_eq!(resolve(&names, MAIN, &Spec::Now), Ok(Point::Now));
    assert_eq!(resolve(&[], Epoch(0), &Spec::Now), Ok(Point::Now));
}

#[test]
fn steps_go_back_along_the_timeline_and_its_parent() {
    finds(MAIN, "now~1", 7);
    finds(MAIN, "now~2", 4);
    finds(MAIN, "now~4", 1);
    finds(SECOND, "now~1", 9);
    finds(SECOND, "now~3", 3);
    finds(SECOND, "now~4", 1);
    finds(MAIN, "mmmm~1", 3);
    finds(SECOND, "kz~1", 3);
    assert_eq!(
        misses(MAIN, "now~5").to_string(),
        "now has 4 snapshots before it, not 5; the state before the first is called base"
    );
    assert_eq!(misses(MAIN, "start~1"), SpecError::TooFarBack { from: "start".to_owned(), steps: 1, have: 0 });
    assert_eq!(misses(MAIN, "base~1"), SpecError::TooFarBack { from: "base".to_owned(), steps: 1, have: 0 });
    assert_eq!(
        misses(MAIN, "now~4294967295"),
        SpecError::TooFarBack { from: "now".to_owned(), steps: u32::MAX, have: 4 }
    );
}

#[test]
fn times_find_the_newest_snapshot_that_is_not_younger() {
    let at = |secs: i64| format!("@{{{}}}", time::format(Time::new(hour(0).secs + secs, 0)));
    finds(MAIN, &at(4 * 3600), 4);
    finds(MAIN, &at(5 * 3600), 4);
    finds(MAIN, &at(7 * 3600 - 1), 4);
    finds(MAIN, "@{now}", 7);
    finds(SECOND, "@{now}", 9);
    // The other timeline's fourth epoch is not in this one's past.
    finds(SECOND, &at(5 * 3600), 3);
    finds(MAIN, &format!("{}~1", at(5 * 3600)), 3);
    let error = misses(SECOND, "@{2023-01-01}");
    assert!(matches!(&error, SpecError::TooOld { first: Some(first), .. } if first.epoch == Epoch(1)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "there was no snapshot at 2023-01-01T00:00:00Z yet; the first is zyxwvuts (\"start\", 2023-01-01T01:00:00Z), \
         and the state before it is called base"
    );
    let error = resolve(&[], Epoch(0), &Spec::Time(hour(1))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there was no snapshot at 2023-01-01T01:00:00Z yet, nor is there one now; the state before the first is called base"
    );
}

#[test]
fn ambiguous_beginnings_list_what_they_can_mean() {
    assert_eq!(
        misses(MAIN, "zyx").to_string(),
        "zyx can be any of 2 snapshots: zyxwvuts (\"start\", 2023-01-01T01:00:00Z), zyxkkkkk (2023-01-01T03:00:00Z); \
         give more letters"
    );
    let many: Vec<Candidate> = (1..=8)
        .map(|epoch| snapshot(epoch, 1, epoch - 1, if epoch == 2 { "kkkkkkkk" } else { "zzzzzzzz" }, None))
        .collect();
    let error = resolve(&many, Epoch(8), &name("z")).unwrap_err();
    let SpecError::Ambiguous { first, count, .. } = &error else { panic!("{error:?}") };
    assert_eq!(first.iter().map(|one| one.epoch.0).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
    assert_eq!(*count, 7);
    assert!(error.to_string().ends_with("and 2 more; give more letters"), "{error}");
    // Ids that are the same: no letters help.
    let error = resolve(&many, Epoch(8), &name("zzzzzzzz")).unwrap_err();
    assert!(error.to_string().ends_with("and 2 more; use their labels, or times"), "{error}");
}

#[test]
fn unknown_names_come_with_similar_ones() {
    let near = |text: &str| match misses(MAIN, text) {
        SpecError::NotFound { near, .. } => near,
        other => panic!("{other:?}"),
    };
    assert_eq!(near("strat"), ["start"]);
    assert_eq!(near("Start"), ["start"]);
    assert_eq!(near("nwo"), ["now"]);
    assert_eq!(near("before"), ["before refactoring"]);
    assert_eq!(near("befor refactoring"), ["before refactoring", "after refactoring"]);
    assert_eq!(near("mmmmmnmm"), ["mmmmmmmm"]);
    assert_eq!(near("nothing like it"), [] as [&str; 0]);
    assert_eq!(misses(MAIN, "strat").to_string(), "no snapshot is called strat; did you mean start");
    assert_eq!(misses(MAIN, "x").to_string(), "no snapshot is called x; base, now and @{TIME} are there always");
    // At most three, the nearest first, and of equals the newest.
    let names: Vec<Candidate> = ["step 19", "step 2", "step 3", "step 4", "step 1"]
        .into_iter()
        .zip(1..)
        .map(|(label, epoch)| snapshot(epoch, 1, epoch - 1, "zzzzzzzz", Some(label)))
        .collect();
    let error = resolve(&names, Epoch(5), &name("step 9")).unwrap_err();
    assert_eq!(error.to_string(), "no snapshot is called step 9; did you mean step 1 or step 4 or step 3");
}

#[test]
fn distances_count_letters() {
    let of = |one: &str, other: &str| {
        let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
        assert_eq!(distance(&one, &other, 99), distance(&other, &one, 99));
        distance(&one, &other, 99).unwrap()
    };
    for (one, other, want) in [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("abc", "abd", 1),
        ("abc", "ac", 1),
        ("abc", "acb", 1),
        ("ab", "ba", 1),
        ("xaby", "xbay", 1),
        ("ca", "abc", 3),
        ("kitten", "sitting", 3),
        ("größe", "grosse", 3),
    ] {
        assert_eq!(of(one, other), want, "{one} {other}");
    }
    assert_eq!(distance(&['a'], &['b'], 0), None);
}

#[test]
fn a_damaged_chain_ends() {
    let names =
        [snapshot(1, 1, 2, "zzzzzzzz", None), snapshot(2, 1, 1, "yyyyyyyy", None), snapshot(3, 1, 3, "xxxxxxxx", None)];
    assert_eq!(chain(&names, Epoch(2)).count(), 2);
    assert_eq!(chain(&names, Epoch(3)).count(), 1);
    assert_eq!(chain(&names, Epoch(5)).count(), 0);
}

#[test]
fn specs_are_shown_as_they_are_written() {
    for text in ["base", "now", "k3f9~1", "now~2", "@{2023-11-14T10:30:00.000000000Z}", "a b"] {
        assert_eq!(parse(text, NOW).unwrap().to_string(), text);
    }
}
