rg -n needle | sort
rg -n --hidden --no-ignore --text needle | sort
rg --mmap -n 'fn item_1\d' | sort
rg --no-mmap -c needle src | sort
rg --files | LC_ALL=C sort
rg --follow -l needle | sort
rg --sort path -l 'file a of'
rg --multiline 'haystack\n' src | sort
rg absent-from-all-of-it || echo "exit $?"
