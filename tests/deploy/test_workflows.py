"""What a forge runs, and what runs before a commit."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.tools import ROOT, run_tool

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# owner/name@commit # version
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request):
    return request.param


def steps(path):
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


def test_the_forge_takes_the_workflows():
    done = run_tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)

    assert done.returncode == 0, done.stdout


def test_updates_are_asked_for_where_there_is_something_to_update():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]

    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "docker"}


def test_actions_are_pinned_by_their_commit_and_may_only_read(workflow):
    uses = re.findall(r"uses: (.*)", workflow.read_text())

    assert uses
    assert [one for one in uses if not PINNED.fullmatch(one)] == []
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    for step in steps(workflow):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_scripts_of_steps_parse_and_take_nothing_that_strangers_may_write(workflow):
    for step in steps(workflow):
        script = step.get("run", "")
        assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=30, check=False).returncode == 0
        # A title or a branch's name in ${{ }} would be run.
        assert "${{" not in script


def test_the_forge_does_what_ci_does():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    image = [step for step in jobs["image"]["steps"] if "trivy" in step.get("uses", "")]

    assert "bash .ci/run" in [step.get("run") for step in jobs["check"]["steps"]]
    assert [one["with"]["exit-code"] for one in image] == ["1"]
    assert any("--target serve" in step.get("run", "") for step in jobs["image"]["steps"])


def test_hooks_are_the_projects_own_and_use_the_programs_of_make_lint():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    lint = re.search(r"^lint:.*\n\t@(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]

    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        program, first, *_ = [*hook["entry"].split(), ""]
        assert Path(program).name in lint or (ROOT / first).is_file()


def test_hooks_run(tmp_path, monkeypatch):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")

    assert run_tool("pre-commit", "validate-config").returncode == 0
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path))
    done = run_tool("pre-commit", "run", "files", "--files", "Makefile", "pyproject.toml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout


@pytest.fixture(scope="module")
def check_files():
    spec = importlib.util.spec_from_file_location("check_files", ROOT / "scripts" / "check_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("long.txt", b"x" * 500_001, "at most 500000 bytes, received 500001"),
        ("end.txt", b"line", "a newline at the end"),
        ("windows.txt", b"line\r\n", "carriage returns"),
        ("merge.txt", b"<" * 7 + b" HEAD\n", "no trace of a merge"),
        ("key.pem", b"-----BEGIN " + b"PRIVATE KEY-----\n", "no private key"),
        ("bad.json", b"{\n", "expected JSON"),
        ("bad.toml", b"a =\n", "expected TOML"),
        ("bad.yaml", b"a: [\n", "expected YAML"),
    ],
)
def test_a_file_that_should_not_be_committed_is_named(check_files, tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)

    [found] = [one for one in check_files.problems_of(tmp_path / name) if problem in one]
    assert check_files.main([str(tmp_path / name)]) == 1
    assert found


def test_what_is_committed_passes(check_files, capsys):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    files = [str(ROOT / name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]

    assert len(files) > 500
    assert (check_files.main(files), capsys.readouterr().out) == (0, "")
