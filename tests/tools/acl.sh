show() { getfacl -cnp "$@"; stat -c '%A %n' "$@"; }
show base base/* base/inherits/older

echo '== the list sets the mode, the mode the list'
echo x > file
for list in u:1:rwx g:2:r m::r o:-; do
    setfacl -m $list file
    show file
done
for mode in 600 770 4711 g-w,o+r; do
    chmod $mode file base/wide base/named
    show file base/wide base/named
done
setfacl -x u:1 file && show file
setfacl -b file base/wide && show file base/wide
getfattr -d -m - file base/wide
chmod 2755 base/none && setfacl -m u:1:r base/none && show base/none
chmod 640 base/inherits && show base/inherits && chmod 755 base/inherits

echo '== a default list is inherited, whatever the umask'
for mask in 000 022 077; do
    umask $mask
    for dir in base/inherits base/inherits/older base/plain base/none; do
        : > $dir/file-$mask
        mkdir $dir/dir-$mask $dir/dir-$mask/deeper
        mkfifo $dir/fifo-$mask
        mkdir -m 700 $dir/private-$mask
        cp -p file $dir/copy-$mask
        ln -s file $dir/link-$mask
        show $dir/file-$mask $dir/dir-$mask $dir/dir-$mask/deeper $dir/fifo-$mask $dir/private-$mask $dir/copy-$mask
    done
done
umask 022
mkdir base/none/later
setfacl -d -m u:2:rx base/none/later base/none
: > base/none/after && : > base/none/later/after && show base/none/after base/none/later/after
setfacl -k base/none base/inherits
: > base/none/last && : > base/inherits/last && show base/none/last base/inherits/last

echo '== what is refused'
setfacl -d -m u:1:r file 2>&1 || echo "a default list for a file: $?"
setfattr -n system.posix_acl_access -v 0x02000000 file && show file
setfattr -n system.posix_acl_access -v 0x0300000001000600ffffffff file 2>&1 || echo "another version: $?"
setfattr -n system.posix_acl_access -v 0x0200000002000600ffffffff file 2>&1 || echo "not a list: $?"
setfattr -x system.posix_acl_access file && echo 'removing none'

echo '== who may'
[ "$(id -u)" = 0 ] || exit 0
daemon() { setpriv --reuid 1 --regid 1 --clear-groups "$@" 2>&1 || echo "refused: $?"; }
chmod 600 base/wide file base/named
daemon cat base/named
setfacl -m u:1:r base/named base/wide
daemon cat base/named base/wide
daemon sh -c 'echo more >> base/wide'
setfacl -m u:1:rw base/wide
daemon sh -c 'echo more >> base/wide'
daemon cat base/wide
chmod g-r base/wide
daemon cat base/wide
daemon setfacl -m u:1:rwx base/wide
mkdir -m 700 closed && echo in > closed/in && daemon cat closed/in
setfacl -m u:1:x closed && daemon cat closed/in && daemon ls closed
