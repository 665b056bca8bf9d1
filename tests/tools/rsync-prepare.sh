# Far from now: rsync compares times by the second, and what it shows must not depend on when one ends.
find . -exec touch -h -d '2020-01-01 00:00:00 UTC' {} +
