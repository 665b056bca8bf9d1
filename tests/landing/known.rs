//! Sequences like those after which an apply went wrong once; most were made shorter by hand since.

/// What went wrong, and the operations.
pub const SCRIPTS: &[(&str, &str)] = &[
    (
        "a file with several names that changed places with a directory kept its attributes in the overlay only",
        "rename g/linked d/linked
        exchange g/h d/linked",
    ),
    (
        "two directories that changed places showed what the other one has got",
        "create many/small dir 755
        exchange empty many",
    ),
    ("the numbers of directories that changed places were taken when that was undone", "exchange g empty"),
    (
        "a FIFO at the place of a directory could not be synced",
        "rename d n0
        create d fifo 640
        chmod d 600",
    ),
    (
        "redo did again what a later operation had ended",
        "rewind 0
        undo force
        setxattr empty user.c 55",
    ),
    (
        "a number that the base gave to another file was listed",
        "rename g/dangling g/n1
        open many/b\\xff
        rewind 0
        create g/n2 fifo 755",
    ),
    (
        "files in a directory that had been moved before a rewind were not kept for the past",
        "rename d many/n2
        rewind 0
        write many/third 100 50777 4 append
        undo force",
    ),
    (
        "a base file was changed where it is, and other names of it stand for something else",
        "removexattr g/linked user.c
        restore 0 d g",
    ),
    (
        "a state of the past that said something already was written over",
        "remove g/dangling
        snapshot
        rename d/e g/large
        rewind 0
        rename g empty
        rewind 2
        remove g/linked
        rewind 5",
    ),
    (
        "another name of a symbolic link took its place",
        "link to-dir h
        utimens to-dir 3",
    ),
    (
        "what took the place of what was applied stayed covered",
        "create d/e/n1 dir 600
        create d/e/n1/n2 dir 755
        create d/e/n1/n2/n1 fifo 1777
        rename d/e/n1/n2 empty",
    ),
    (
        "a file with a name outside the repository was given an entry in a file",
        "truncate g/h/chunk 307200
        exchange sparse many
        rename g/h/chunk sparse/b\\xff
        rename sparse d/e/f/n3\\xff
        remove d/e/f/n3\\xff/third
        remove d/e/f/n3\\xff/b\\xff
        remove d/e/f/n3\\xff/a
        remove d/e/f/n3\\xff",
    ),
    (
        "a copy left the overlay while its number's other file was elsewhere",
        "removexattr small user.a
        snapshot
        rename g/h/chunk d/e/one
        exchange small g/h
        rename g/h d/e/large
        restore 1 small many",
    ),
    (
        "a base file in a moved directory went from the present when its copy at the old place was applied",
        "rewind 0
        chown sparse 0 0
        rewind 1
        write sparse 330000 66357 1 append
        rewind 1
        snapshot
        snapshot
        remove d/e/one
        rewind 2
        open d/e/one
        chown #0 2 1
        snapshot
        rewind 0
        exchange many/third d/e/f
        rename d/e many/third/linked
        restore 11 d/e d/e",
    ),
];
