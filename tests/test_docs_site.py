"""docs/ as a site."""

import subprocess
import sys

import pytest

from tests.doc_commands import ROOT

pytestmark = pytest.mark.slow


def test_the_site_is_built_without_a_warning(tmp_path):
    # A dead link, a page in no list and a docstring that is no valid text are warnings.
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "-W", "--keep-going", "-b", "html", "-c", "docs",
         "-d", tmp_path / "cache", ".", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert 'url=docs/index.html"' in (tmp_path / "site" / "index.html").read_text()
    assert (tmp_path / "site" / "docs" / "index.html").stat().st_size > 10_000
