# A small source tree: nested directories, sizes on both sides of 64 KiB and 256 KiB, links, odd names, an ignored part.
i=0
for dir in src src/net src/net/http src/db docs docs/guide; do
    mkdir -p "$dir"
    for name in a b c d e f; do
        i=$((i + 1))
        {
            printf '// file %s of %s\nfn item_%s() -> u32 { %s }\n' "$name" "$dir" "$i" "$i"
            seq 1 $((i * 7))
        } > "$dir/$name.txt"
    done
done
printf 'needle in the haystack\n' >> src/net/http/c.txt
seq 1 20000 > src/big-100k.txt
seq 1 60000 > src/big-340k.txt
printf 'the needle is here too\n' >> src/big-340k.txt
: > src/empty
printf 'no newline at the end' > src/no-newline
printf 'binary\000needle\n' > src/binary.bin
mkdir -p build/deep .hidden 'name with space'
printf 'needle, but ignored\n' > build/deep/out.txt
printf 'needle, but hidden\n' > .hidden/file
printf 'needle with a space\n' > 'name with space/a file'
printf 'build/\n' > .gitignore
printf 'umlaut\n' > 'src/größe.txt'
printf 'latin1\n' > "$(printf 'src/gr\366\337e.txt')"
printf 'long\n' > "src/$(printf '%0255d' 0)"
ln -s net/http/c.txt src/link-file
ln -s net src/link-dir
ln -s /nonexistent/target src/link-broken
ln src/a.txt src/hard-one
ln src/a.txt docs/hard-two
mkfifo src/fifo
truncate -s 1M src/sparse
printf 'end' >> src/sparse
chmod 755 src/b.txt
chmod 600 src/c.txt
chmod 4711 src/d.txt
chmod 1777 docs/guide
touch -d '2001-02-03T04:05:06.123456789Z' src/a.txt src/net docs/b.txt
touch -h -d '2002-02-03T04:05:06.987654321Z' src/link-file
