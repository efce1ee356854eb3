"""examples/*.ipynb: each runs from its first cell to its last, in order, and is kept without what it printed."""

import functools
import os

import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands import ROOT

EXAMPLES = ROOT / "examples"
# By number: each goes on with what those before it left.
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS)
def notebook(request):
    return request.param


def read(name):
    return nbformat.read(EXAMPLES / name, as_version=4)


def test_there_is_one_for_each_part_of_the_road():
    assert NOTEBOOKS == ["1_training.ipynb", "2_optimisation.ipynb", "3_inference_api.ipynb", "4_benchmarking.ipynb"]


def test_nothing_that_was_printed_is_kept(notebook):
    cells = [cell for cell in read(notebook).cells if cell.cell_type == "code"]

    assert {(len(cell.outputs), cell.execution_count, len(cell.metadata)) for cell in cells} == {(0, None, 0)}


def test_they_say_no_more_of_their_kernel_than_that_it_is_python(notebook):
    metadata = read(notebook).metadata

    assert metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert metadata.language_info == {"name": "python"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Runs a notebook, and those before it first where they have not run: every cell's printed text."""
    home = tmp_path_factory.mktemp("jupyter")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TFPIPE_", "MLFLOW_"))},
        "EXAMPLES_OUTPUT": str(home / "output"),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "IPYTHONDIR": str(home / "ipython"),
    }

    @functools.cache
    def execute(name):
        if name != NOTEBOOKS[0]:
            # The last needs no service of the third's, but the bundle of the second.
            execute(NOTEBOOKS[min(NOTEBOOKS.index(name), 2) - 1])
        notebook = read(name)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}})
        client.execute(env=environment)
        return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))

    return execute


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (NOTEBOOKS[0], ["passed", "training.epoch: unknown key. Did you mean 'training.epochs'?", "models:/digits/1"]),
        (NOTEBOOKS[1], ["fastest that passed:", "a bundle was written: False", "broken: None"]),
        (NOTEBOOKS[2], ["ready", "'gRPC': ", "tfpipe_requests_total"]),
        (NOTEBOOKS[3], ["throughput", "p95"]),
    ],
)
def test_it_runs_to_its_end(executed, name, told):
    printed = executed(name)

    assert [words for words in told if words not in printed] == []
