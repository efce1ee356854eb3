import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.bundle import (
    CHECKSUM,
    FORMAT_VERSION,
    GENERATED,
    MANIFEST,
    Bundle,
    Manifest,
    Variant,
    file_sha256,
    open_bundle,
    read_differences,
    read_golden,
    seal,
    write_differences,
    write_golden,
)
from tfpipe.core.errors import BundleError
from tfpipe.core.signature import TensorSpec

names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
facts = st.dictionaries(names, st.one_of(names, numbers, st.integers(), st.booleans(), st.none()), max_size=3)
specs = st.builds(
    TensorSpec,
    name=names,
    dtype=st.sampled_from(["uint8", "float32"]),
    shape=st.lists(st.one_of(st.integers(1, 500), names), max_size=4).map(tuple),
)
variants = st.builds(
    Variant,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    file=names,
    recipe=facts,
    size_bytes=st.integers(0, 2**40),
    metrics=st.dictionaries(names, numbers, max_size=3),
    latency_ms=st.dictionaries(names, numbers, max_size=3),
    batch_invariant=st.booleans(),
    golden_max_abs_diff=numbers,
    weights=st.dictionaries(names, st.dictionaries(names, names, max_size=2), max_size=2),
)
manifests = st.builds(
    Manifest,
    model_name=names,
    model_version=st.none() | names,
    task=names,
    labels=st.lists(names, max_size=5).map(tuple),
    inputs=st.lists(specs, max_size=2).map(tuple),
    outputs=st.lists(specs, max_size=2).map(tuple),
    preprocess_inputs=st.lists(specs, max_size=2).map(tuple),
    variants=st.dictionaries(names, variants, max_size=3),
    default_variant=names,
    training=facts,
    measured_on=facts,
    created=names,
    files=st.dictionaries(names, names, max_size=3),
    multi_label=st.booleans(),
)


def write_bundle(folder: Path) -> Path:
    folder.mkdir()
    for precision in ("fp32", "int8"):
        (folder / f"model.{precision}.onnx").write_bytes(precision.encode() * 100)
    (folder / "saved_model" / "1").mkdir(parents=True)
    (folder / "saved_model" / "1" / "saved_model.pb").write_bytes(b"graph")
    write_golden(folder, [("a.png", b"image", np.array([0.25, 0.75], np.float32))])
    kinds = {name: Variant(name, f"model.{name}.onnx", {}, 400, {}, {}, True, 0.0, {}) for name in ("fp32", "int8")}
    spec = TensorSpec("input", "float32", ("batch", 2))
    seal(
        folder,
        Manifest("m", "1", "image_classification", ("a", "b"), (spec,), (spec,), (spec,), kinds, "int8", {}, {}, "now"),
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(manifests)
def test_a_manifest_comes_back_from_its_json(manifest):
    assert Manifest.from_json(manifest.to_json(), where="here") == manifest


def test_a_sealed_bundle_opens_and_lists_every_file(folder):
    bundle = open_bundle(folder)

    assert set(bundle.manifest.files) == {
        "model.fp32.onnx",
        "model.int8.onnx",
        "golden/a.png",
        "golden/answers.json",
        "saved_model/1/saved_model.pb",
    }
    assert bundle.sha256 == file_sha256(folder / MANIFEST)
    assert bundle.short_id == bundle.sha256[:12]


def test_golden_samples_come_back(folder):
    bundle = open_bundle(folder)
    (sample,) = read_golden(bundle)

    assert bundle.path(sample.file).read_bytes() == b"image"
    np.testing.assert_array_equal(sample.probabilities, np.array([0.25, 0.75], np.float32))


def test_golden_answers_of_tokens_come_back(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    of_three_tokens = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], np.float32)
    of_one = np.array([[0.125, 0.875]], np.float32)
    write_golden(folder, [("0000.txt", "größer".encode(), of_three_tokens), ("0001.txt", b"", of_one)])
    seal(folder, open_without_check(write_bundle(tmp_path / "other")))

    first, second = read_golden(Bundle(folder, open_without_check(folder), ""))

    np.testing.assert_array_equal(first.probabilities, of_three_tokens)
    np.testing.assert_array_equal(second.probabilities, of_one)
    assert first.probabilities.dtype == np.float32


def test_a_bundle_from_before_there_were_several_labels_opens(folder):
    values = json.loads((folder / MANIFEST).read_text())
    del values["multi_label"]

    assert Manifest.from_json(json.dumps(values), where="here").multi_label is False


def test_generated_pictures_come_back_beside_golden_samples_with_their_differences(tmp_path):
    folder = write_bundle(tmp_path / "bundle")
    assert read_differences(open_bundle(folder)) == {}
    answer = np.array([0.5, 0.5], np.float32)
    write_golden(folder, [("b.png", b"colours", answer)], rows=[np.ones((2, 2, 3), np.float32)], place=GENERATED)
    write_differences(folder, {"fp32": 1e-6, "int8": 0.125})
    seal(folder, open_without_check(folder))

    bundle = open_bundle(folder)

    (sample,) = read_golden(bundle, GENERATED)
    assert (sample.file, sample.probabilities.tolist(), sample.row.shape) == ("generated/b.png", [0.5, 0.5], (12,))
    assert read_differences(bundle) == {"fp32": 1e-6, "int8": 0.125}
    assert [golden.file for golden in read_golden(bundle)] == ["golden/a.png"]


def test_differences_in_another_form_are_told(tmp_path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "generated").mkdir()
    (folder / "generated" / "differences.json").write_text("[1]")
    seal(folder, open_without_check(folder))

    with pytest.raises(BundleError, match=r"differences\.json: expected a difference of each variant"):
        read_differences(open_bundle(folder))


def test_a_bundle_without_golden_samples_is_told(tmp_path):
    folder = write_bundle(tmp_path / "bundle")
    manifest = open_bundle(folder).manifest
    for path in (folder / "golden").iterdir():
        path.unlink()
    seal(folder, manifest)

    with pytest.raises(BundleError, match=r"expected golden samples \(golden/answers.json\), found none"):
        read_golden(open_bundle(folder))


def test_golden_answers_in_another_form_are_told(tmp_path):
    folder = write_bundle(tmp_path / "bundle")
    (folder / "golden" / "answers.json").write_text('[{"file": "golden/a.png"}]')
    seal(folder, open_without_check(folder))

    with pytest.raises(BundleError, match="expected files with their probabilities"):
        read_golden(open_bundle(folder))


def open_without_check(folder: Path) -> Manifest:
    return Manifest.from_json((folder / MANIFEST).read_text(), where="here")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_byte_changed_anywhere_is_refused(tmp_path_factory, data):
    folder = write_bundle(tmp_path_factory.mktemp("bundle") / "b")
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    # The checksum's own file holds the name of the manifest after it, which nothing depends on.
    end = 64 if path.name == CHECKSUM else len(content)
    position = data.draw(st.integers(0, end - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)

    with pytest.raises(BundleError, match=r"expected sha256 .*, received"):
        open_bundle(folder)


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    (tmp_path / CHECKSUM).write_text(file_sha256(tmp_path / MANIFEST))

    with pytest.raises(BundleError, match=r"expected a bundle manifest \(JSON\), received something else"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.int8.onnx", "golden/a.png"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()

    with pytest.raises(BundleError, match=f"expected the file '{name}', found none"):
        open_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"expected a bundle \(a folder with bundle.json\), found none"):
        open_bundle(tmp_path)


def test_a_variant_whose_file_has_no_checksum_is_refused(folder):
    (folder / "model.int8.onnx").unlink()
    seal(folder, open_without_check(folder))

    with pytest.raises(BundleError, match=r"expected a sha256 of every variant's file, .* \['model.int8.onnx'\]"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected a bundle manifest (JSON)"),
        ("[]", "expected a bundle manifest (JSON)"),
        ('{"a": 1}', "expected a bundle manifest (JSON)"),
        (json.dumps({"format_version": FORMAT_VERSION + 1}), f"expected format version {FORMAT_VERSION}, received"),
        (json.dumps({"format_version": FORMAT_VERSION}), "expected a complete bundle manifest"),
    ],
)
def test_a_text_that_is_no_manifest_is_refused(text, sentence):
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(text, where="here/bundle.json")

    assert str(caught.value).startswith(f"here/bundle.json: {sentence}")


def test_a_manifest_with_an_unknown_field_is_refused(folder):
    values = json.loads((folder / MANIFEST).read_text()) | {"colour": "red"}

    with pytest.raises(BundleError, match="unexpected keyword argument 'colour'"):
        Manifest.from_json(json.dumps(values), where="here")


def test_the_default_variant_is_found_by_auto(folder):
    bundle = open_bundle(folder)

    assert bundle.variant("auto").precision == "int8"
    assert bundle.variant("fp32").precision == "fp32"


def test_a_precision_that_is_not_there_is_refused_with_those_that_are(folder):
    with pytest.raises(BundleError, match="expected precision fp32, int8, received 'fp16'"):
        open_bundle(folder).variant("fp16")
