mkdir -p calc tests
cat > calc/__init__.py <<'PY'
def add(a, b):
    return a + b
PY
cat > tests/test_calc.py <<'PY'
import calc
import pytest


@pytest.mark.parametrize("a, b, total", [(1, 2, 3), (-1, 1, 0), (0.5, 0.5, 1.0)])
def test_add(a, b, total):
    assert calc.add(a, b) == total


def test_files(tmp_path):
    (tmp_path / "x").write_text("y")
    assert (tmp_path / "x").read_text() == "y"


@pytest.mark.xfail(strict=True)
def test_wrong():
    assert calc.add(1, 1) == 3
PY
