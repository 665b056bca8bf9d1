make -j2 --output-sync > log 2>&1
sort log
rm log
./prog
make -q && echo 'up to date'
touch main.c
make
make
echo 'int thrice(int n) { return 3 * n; }' >> util.c
make -q || echo 'something to do'
make
nm -g --defined-only libutil.a | sed 's/^[0-9a-f]* //' | grep -v '^$'
./prog
make clean
make -s
./prog
