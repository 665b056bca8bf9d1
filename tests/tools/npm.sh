export npm_config_cache="$SCENARIO_HOME/npm" npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
npm install ./local > /dev/null
npm run --silent show
if [ "$REGISTRY" = yes ]; then
    npm install is-number@7.0.0 left-pad@1.3.0 express@4.19.2 > /dev/null 2>&1
    node -e "
        console.log(require('is-number')(7), require('left-pad')('x', 3));
        const app = require('express')();
        app.get('/', (_, answer) => answer.send('served'));
        const server = app.listen(0, '127.0.0.1', async () => {
            const answer = await fetch('http://127.0.0.1:' + server.address().port + '/');
            console.log(await answer.text());
            server.close();
            server.closeAllConnections();
        });"
    # From the lock file alone, into a node_modules that is removed first.
    npm ci > /dev/null
    npm uninstall left-pad > /dev/null
fi
npm ls --all
npm run --silent show
find . -type l | sort | while read -r link; do echo "$link -> $(readlink "$link")"; done
