# Byte code is part of what is compared.
unset PYTHONDONTWRITEBYTECODE
export HOME="$SCENARIO_HOME" PIP_CACHE_DIR="$SCENARIO_HOME/pip" PIP_NO_INPUT=1
python3 -m venv env
env/bin/pip install -q pytest
env/bin/pip freeze
env/bin/pip check
# Not in /tmp: what pytest makes for the test lies in the directory under test.
env/bin/python -m pytest -q -p no:randomly --basetemp=made tests | sed 's/ in [0-9.]*s//'
env/bin/python -m pytest -q --basetemp=made tests -k files | sed 's/ in [0-9.]*s//'
env/bin/python -c 'import calc; print(calc.__cached__)' | sed 's/.*repo/repo/'
find made | sort
