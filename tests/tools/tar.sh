tar --sort=name --xattrs -S -cf all.tar src docs 'name with space' .hidden
tar -tvf all.tar --full-time | sed 's/ 20[0-9-]* [0-9:.]* / /' | wc -l
tar --compare -f all.tar
mkdir restored
tar --xattrs -xpSf all.tar -C restored
tar --compare -f all.tar -C restored && echo 'the same'
# Byte for byte the same archive, as far as it holds no pid and no ctime.
tar --sort=name --xattrs --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf - src docs | cksum
# Over what is there, and through a pipe.
tar -xpf all.tar -C restored
tar -C restored -cf - src | tar -C restored -xf - --transform 's,^src,again,'
diff -r --no-dereference --exclude=fifo restored/src restored/again && echo 'the same again'
gzip -c all.tar | tar -xzf - -O src/net/http/c.txt | tail -1
rm -rf restored/again all.tar
