git init -q --bare -b main origin.git
git clone -q origin.git seed 2>/dev/null
cd seed
git checkout -q -b main
mkdir -p src doc
for i in $(seq 1 60); do seq 1 $((i * 11)) > "src/$i.txt"; done
printf '#!/bin/sh\necho run\n' > run.sh
chmod +x run.sh
ln -s src/1.txt link
git add -A
git commit -qm 'first'
for i in 1 2 3; do echo "line $i" >> doc/log; git add -A; git commit -qm "log $i"; done
git push -q origin main
cd ..
rm -rf seed
