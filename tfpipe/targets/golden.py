"""Golden samples of a bundle as requests by input name."""

from tfpipe.core.bundle import Bundle, read_golden
from tfpipe.core.golden_tensors import read_golden_tensors
from tfpipe.core.signature import Array
from tfpipe.inference.opening import open_inference
from tfpipe.targets.answering import is_of_tensors
from tfpipe.targets.warmup import image_request, text_request


def golden_requests(bundle: Bundle) -> list[dict[str, Array]]:
    """What signatures take, of each golden sample; of a text longer than a row, the first row.

    Returns:
        Array by input name, batch axis included.

    Raises:
        BundleError: It has no golden samples.
    """
    if is_of_tensors(bundle):
        return [sample.inputs for sample in read_golden_tensors(bundle)]
    inference = open_inference(bundle, threads=1)
    request_of = image_request if inference.takes == "image" else text_request
    contents = [bundle.path(sample.file).read_bytes() for sample in read_golden(bundle)]
    return [request_of(content, inference.prepare(inference.decode(content)).rows[0]) for content in contents]
