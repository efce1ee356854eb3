"""The wheel, where nothing else is."""

import hashlib
import shutil
import subprocess
import zipfile

import pytest

from tests.deploy.tools import ROOT

pytestmark = pytest.mark.slow


def run(*command, **options):
    return subprocess.run(
        [str(part) for part in command],
        **{"capture_output": True, "text": True, "timeout": 300, "check": True} | options,
    )


@pytest.fixture(scope="module")
def uv():
    found = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".tools" / "bin"))
    if found is None:
        pytest.skip("uv is not installed; `make setup` installs it")
    return found


@pytest.fixture(scope="module")
def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    return [name for name in run("git", "ls-files", cwd=ROOT).stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(uv, tracked, tmp_path_factory):
    """Made of what is committed and nothing else, as building leaves files beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)
    run(uv, "build", "--quiet", "--wheel", "--out-dir", source / "dist", source)
    [built] = (source / "dist").glob("*.whl")
    return built


def test_it_holds_the_packages_with_all_their_files_and_nothing_else(wheel, tracked):
    expected = {name for name in tracked if name.startswith(("tfpipe/", "serving/")) and (ROOT / name).is_file()}
    # Behind a link.
    expected |= {f"tfpipe/{name}" for name in tracked if name.startswith("configs/")}

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        [licence] = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        text = archive.read(licence)

    assert held == expected
    assert text == (ROOT / "LICENSE").read_bytes()


def test_it_installs_and_runs_in_a_clean_environment(uv, wheel, tmp_path):
    python = tmp_path / "clean" / "bin" / "python"
    run(uv, "venv", "--quiet", "--python", "3.11", tmp_path / "clean")
    pins = ROOT / "constraints" / "serve.txt"
    run(uv, "pip", "install", "--quiet", "--python", python, "--constraint", pins, f"{wheel}[serve]")

    version = run(python.parent / "tfpipe", "--version", cwd=tmp_path).stdout
    helped = run(python, "-m", "serving", "--help", cwd=tmp_path).stdout
    missing = run(python, "-m", "serving", "--model", tmp_path / "none", "--port", "0", cwd=tmp_path, check=False)
    heavy = run(python, "-c", "import importlib.util as u; print(u.find_spec('tensorflow'))", cwd=tmp_path).stdout
    # Reads the files of the page, which lie in the package.
    app = "import serving.app, serving.settings as s; serving.app.create_app(s.ServingSettings())"
    run(python, "-c", app, cwd=tmp_path)

    assert version.split()[-1] == wheel.name.split("-")[1]
    assert "TFPIPE_SERVING_MODEL" in helped
    assert missing.returncode == 2
    assert str(tmp_path / "none") in missing.stderr
    assert heavy.strip() == "None"


def test_the_licence_is_apache_2_0_as_published():
    # Source: apache.org/licenses/LICENSE-2.0.txt
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )
