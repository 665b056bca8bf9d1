setfattr -n user.note -v 'kept' src/a.txt
setfattr -n user.binary -v 0x00ff00 src/net
setfacl -m u:1:rw,g:2:r src/b.txt
setfacl -d -m u:1:rwx src/db
getfattr -d -m 'user\.' src/a.txt
getfacl -cn src/b.txt src/db

rsync -aHAX src docs copy/
rsync -aHAX --delete --itemize-changes src docs copy/
getfattr -d -m 'user\.' copy/src/a.txt copy/src/net
getfacl -cn copy/src/b.txt copy/src/db
stat -c '%h %n' copy/src/a.txt copy/src/hard-one copy/docs/hard-two

echo changed >> src/net/a.txt
rm src/net/b.txt
mv src/e.txt src/moved.txt
rsync -aHAX --delete --itemize-changes src docs copy/
rsync -aHAX --delete --itemize-changes --checksum src docs copy/
rsync -a --inplace --no-whole-file --itemize-changes src/big-340k.txt copy/inplace.txt
echo more >> src/big-340k.txt
rsync -a --inplace --no-whole-file src/big-340k.txt copy/inplace.txt
cmp src/big-340k.txt copy/inplace.txt && echo 'in place: the same'
