"""Images/s of the service with JPEG files over those of the slower of decoding alone and ResNet-50 INT8 alone.

    make bench NAME=service_jpeg

Files of 480 x 640 to /predict; the service on one core with one thread, as are the two alone; by turns.
"""

import statistics

from benchmarks.bare import images_per_second, rows_per_second
from benchmarks.load import send_load
from benchmarks.measure import conclude
from benchmarks.served_models import BUILD, graphs_of, jpeg, resnet50_bundle
from benchmarks.servers import Asked, as_rows, predict, serving

HEIGHT, WIDTH = 480, 640
CONNECTIONS = 16
TURNS = 5
SECONDS, WARM_UP_S, ALONE_S = 8.0, 2.0, 8.0
BATCH_SIZES = (1, 2, 4, 8)
GOAL = 0.85


def main() -> None:
    bundle = resnet50_bundle()
    graphs = graphs_of(bundle, "int8", preprocess=False)
    contents = [jpeg(HEIGHT, WIDTH, seed=seed) for seed in range(8)]
    file = BUILD / "photo.jpg"
    file.write_bytes(contents[0])
    asked = Asked(bundle, graphs, "image", as_rows(contents), batch_size=8)
    contender = predict(asked, "image/jpeg")
    shares = []
    for turn in range(TURNS):
        decoded = images_per_second(file, seconds=ALONE_S / 4)
        computed = rows_per_second(graphs / "model.onnx", BATCH_SIZES, seconds=ALONE_S)
        with serving(contender, asked) as running:
            loaded = send_load(
                running.port, running.requests, connections=CONNECTIONS, seconds=SECONDS, warm_up_s=WARM_UP_S
            )
        shares.append(loaded.throughput / min(decoded, computed))
        print(
            f"turn {turn + 1}/{TURNS}  decoding alone {decoded:.1f}/s, model alone {computed:.1f}/s, "
            f"service {loaded.throughput:.1f}/s, p50 {loaded.p50_ms:.0f} ms, {loaded.failed} failed",
            flush=True,
        )
    print(f"both one after the other on one core: at most {_serial(decoded, computed):.3f} of the slower (last turn)")
    print(f"median {statistics.median(shares):.3f}")
    conclude("service_jpeg", shares, goal=GOAL, unit="share of the slower of decoding and model alone")


def _serial(decoded: float, computed: float) -> float:
    return 1 / (1 / decoded + 1 / computed) / min(decoded, computed)


if __name__ == "__main__":
    main()
