cat > util.h <<'C'
int twice(int);
C
cat > util.c <<'C'
#include "util.h"
int twice(int n) { return 2 * n; }
C
cat > main.c <<'C'
#include <stdio.h>
#include "util.h"
int main(void) { printf("%d\n", twice(21)); return 0; }
C
cat > Makefile <<'MAKE'
CFLAGS = -O1
prog: main.o libutil.a
	$(CC) -o $@ main.o -L. -lutil
libutil.a: util.o
	ar rcsD $@ $^
main.o: main.c util.h
util.o: util.c util.h
%.o: %.c
	@echo compile $<
	@$(CC) $(CFLAGS) -c -o $@ $<
clean:
	rm -f prog *.o *.a
.PHONY: clean
MAKE
touch -d '2020-01-01T00:00:00Z' util.h util.c main.c Makefile
