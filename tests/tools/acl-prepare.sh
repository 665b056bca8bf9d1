umask 022
mkdir base base/plain base/inherits
echo secret > base/named
chmod 600 base/named
setfacl -m u:1:r base/named
echo two > base/wide
setfacl -m u:1:rw,g:2:rwx base/wide
setfacl -d -m u:1:rwx,g:2:r-x,o:- base/inherits
mkdir base/inherits/older
setfacl -d -m u::rwx,g::rx,o::- base/plain
mkdir base/none
