git config --file conf gc.autoDetach false
export GIT_CONFIG_GLOBAL="$PWD/conf"
git config --global gc.auto 0
git config --global pack.threads 1
git config --global advice.detachedHead false

git clone -q origin.git work
cd work
git log --oneline
git status --porcelain

git checkout -q -b feature
for i in 1 2 3; do
    echo "feature $i" >> "src/$i.txt"
    echo "new $i" > "src/new-$i.txt"
    git add -A
    git commit -qm "feature $i"
done
git mv src/10.txt doc/ten.txt
chmod -x run.sh
rm link
ln -s src/2.txt link
git add -A
git commit -qm 'move, chmod, relink'

git checkout -q main
echo 'main moves on' >> doc/log
echo 'main too' >> src/40.txt
git commit -qam 'main moves on'
git rebase -q main feature
git log --graph --format='%h %s' --all
git diff --stat main feature
git diff --summary main feature

git checkout -q main
git merge -q --no-ff -m merge feature
git worktree add -q ../tree-two feature
echo 'in the second tree' > ../tree-two/second.txt
git -C ../tree-two add -A
git -C ../tree-two commit -qm 'from the second tree'
git worktree list --porcelain
git stash list
echo dirty >> run.sh
git stash -q
git status --porcelain
git stash pop -q
git status --porcelain
git checkout -q -- run.sh

git push -q origin main feature
git tag v1
git gc -q --prune=now
git count-objects -v
git fsck --full --strict
git -C ../origin.git fsck --full --strict
git worktree remove ../tree-two
git switch -q feature
git ls-files -s
git status --porcelain
git -c core.fsmonitor=false diff-files
git bisect start feature HEAD~6 > bisect.out 2>&1
git bisect run sh -c '! test -e src/new-2.txt' > bisect.out 2>&1
grep -o 'is the first bad commit' bisect.out | sort -u
git bisect reset > bisect.out 2>&1
rm -f bisect.out
git archive main | tar -t | sort | tail -5
