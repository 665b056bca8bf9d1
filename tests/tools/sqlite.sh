# Two writers and a reader, each a process of its own, on a database of the base and on a new one.
writer() {
    i=0
    while [ $i -lt 60 ]; do
        i=$((i + 1))
        echo "INSERT INTO t VALUES ('$2', $i);"
    done | sqlite3 -bail -cmd '.timeout 60000' "$1"
}

reader() {
    last=0
    i=0
    while [ $i -lt 30 ]; do
        i=$((i + 1))
        now=$(sqlite3 -cmd '.timeout 60000' "$1" 'SELECT count(*) FROM t')
        [ "$now" -ge "$last" ] || { echo "the count went from $last to $now"; return 1; }
        last=$now
    done
}

for db in old.db new.db; do
    sqlite3 "$db" 'CREATE TABLE IF NOT EXISTS t (who TEXT, n INTEGER)' 'PRAGMA journal_mode=WAL'
    # Keeps the -wal and -shm files, and so the shared mapping, alive over all of it.
    { sleep 3; echo 'SELECT 1;'; } | sqlite3 -cmd 'SELECT count(*) >= 0 FROM t' "$db" > /dev/null &
    holder=$!
    writer "$db" one & one=$!
    writer "$db" two & two=$!
    reader "$db" & three=$!
    wait $one
    wait $two
    wait $three
    wait $holder
    sqlite3 "$db" 'PRAGMA integrity_check' 'SELECT who, count(*), sum(n) FROM t GROUP BY who ORDER BY who'
    sqlite3 "$db" 'PRAGMA wal_checkpoint(TRUNCATE)' 'PRAGMA journal_mode=DELETE'
    sqlite3 "$db" 'BEGIN' 'DELETE FROM t WHERE n > 30' 'ROLLBACK' 'BEGIN' 'DELETE FROM t WHERE n > 50' 'COMMIT' \
        'SELECT count(*) FROM t' 'VACUUM' 'PRAGMA integrity_check'
    # Whatever order the rows came in.
    sqlite3 "$db" 'SELECT * FROM t ORDER BY who, n' | cksum
done
