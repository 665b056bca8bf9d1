sqlite3 old.db "CREATE TABLE t (who TEXT, n INTEGER); INSERT INTO t VALUES ('base', 0);"
