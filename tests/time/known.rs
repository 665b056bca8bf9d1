//! Sequences that went wrong once.

/// What went wrong, and the operations.
pub const SCRIPTS: &[(&str, &str)] = &[
    (
        "a base file with several names that is open: only the name by which it was changed got the old bytes back",
        "open d/linked
        write many/third 0 45473 4
        rewind 0",
    ),
    (
        "the copy of an open file stayed alive in memory after a rewind to before it",
        "open d/e/f/leaf
        snapshot
        write #0 86 4096 4
        rewind 1
        open d/e/f/leaf
        rewind 1",
    ),
    (
        "an open file was remembered under a path that a rewind had taken away",
        "create n0 file 644
        exchange g/h d/e
        open d/e/chunk
        rewind 0
        utimens #0 4",
    ),
    (
        "a rewind was refused when an open file had its only names outside the repository",
        "open many/a
        remove many/a
        snapshot
        write #0 0 100 3
        rewind 1",
    ),
    ("two directories of the base that changed places differ in their attributes", "exchange d many"),
    (
        "the index led to a name that a file lost, not to the one that it kept",
        "link g/fifo linked
        restart
        remove linked",
    ),
    (
        "the same, of a file that is open",
        "open small
        link small n1
        compare
        remove n1
        snapshot
        write #0 0 3 3",
    ),
    (
        "a rewind took a name away, and a change through a handle went into the index under it",
        "snapshot
        open small
        link small n1
        compare
        rewind 1
        write #0 0 3 3",
    ),
    (
        "the index led to where a directory had been for a while",
        "snapshot
        rename d/e n0
        snapshot
        write n0/one 0 9 2
        rename n0 d/e
        snapshot
        diff 1 3",
    ),
    (
        "a rewind put paths into the index that were out of date",
        "create n0 dir 755
        create n0/small file 644
        snapshot
        rename n0 n1
        snapshot
        write n1/small 0 9 2
        snapshot
        rename n1 n0
        snapshot
        rewind 1
        diff 4 5
        diff 5 4",
    ),
    (
        "an open file in a directory that was moved got the bytes of the past",
        "rename d/e n0
        write n0/one 0 9 2
        open n0/one
        rewind 0",
    ),
    (
        "fsck counted chunks twice that are in two runs",
        "write small 0 230000 0
        snapshot
        fallocate small Punch 194450 30000
        fallocate small ZeroKeep 126976 65536",
    ),
    (
        "what a rewind brought back in a removed directory was noted under the path that it had at last, as the base alone knew the right one",
        "exchange g many/third
        exchange many/third/h/chunk d/e/f
        restore 0 many
        open d/e/f
        rewind 0",
    ),
    (
        "an undo was refused since a file in a changed directory had lost a name by what it takes back",
        "open d/large
        link d/large g/h/h
        fallocate #0 Extend 0 4096
        rewind 0
        removexattr d user.b
        undo",
    ),
    (
        "a redo took the bytes back of a file of which only the times differed by it",
        "fallocate d/large Reserve 65537 73
        rewind 0
        write d/large 78 6668 0
        link d/large g/large
        undo
        remove g/large
        redo",
    ),
];
