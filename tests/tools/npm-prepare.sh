mkdir -p local/lib
cat > local/package.json <<'JSON'
{ "name": "local-thing", "version": "1.2.3", "main": "lib/index.js", "bin": { "local-thing": "lib/cli.js" } }
JSON
cat > local/lib/index.js <<'JS'
module.exports = () => 'local thing';
JS
cat > local/lib/cli.js <<'JS'
#!/usr/bin/env node
console.log(require('./index')());
JS
chmod +x local/lib/cli.js
cat > package.json <<'JSON'
{ "name": "project", "version": "1.0.0", "private": true, "scripts": { "show": "local-thing" } }
JSON
