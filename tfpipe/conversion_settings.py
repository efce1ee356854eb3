"""Section `conversion` of a configuration."""

from typing import Literal

from pydantic import AliasChoices, Field

from tfpipe.sections import Section


class ConversionConfig(Section):
    """`python -m tfpipe.convert`."""

    opset: int = Field(
        18,
        ge=17,
        le=23,
        description="ONNX operator set; beyond 18, the newest that is written, the graph is converted.",
    )
    max_metric_drop: float = Field(
        0.02,
        ge=0,
        le=1,
        # The second is what runs of version 0.1 wrote into their config.yaml.
        validation_alias=AliasChoices("max_metric_drop", "max_accuracy_drop"),
        description="Largest loss of the task's metric against fp32.",
    )
    max_class_drop: float = Field(
        0.2, ge=0, le=1, description="Largest loss of one class's recall against fp32; none may vanish."
    )
    min_size_reduction: float | None = Field(
        None, ge=0, lt=1, description="Least share of fp32's size saved; null: 0.5 for int8, 0.49 for fp16."
    )
    max_p95_ms: float | None = Field(
        None, gt=0, description="Largest 95th percentile of latency of one row in milliseconds; null: no limit."
    )
    min_speedup: float | None = Field(
        None, gt=0, description="Least median speed of one row against fp32 on ONNX Runtime's CPU provider; null: none."
    )
    calibration_samples: int = Field(
        200, ge=1, description="Training samples that set INT8 ranges; training keeps 200."
    )
    calibration_method: Literal["auto", "minmax", "entropy", "percentile", "dynamic"] = Field(
        "auto",
        description="How INT8 ranges are set; auto: minmax, and where that misses max_metric_drop, percentile with "
        "depthwise convolutions kept in float32, of texts percentile and then dynamic; dynamic: by each batch.",
    )
    calibration_path: str | None = Field(
        None,
        description="Samples that set INT8 ranges, in any form of data.path, in place of those that training kept; of "
        "task tensor, an .npz file with an array of samples for each input.",
    )
    features: bool = Field(
        False, description="Add the vector before the head as a second output, `features` (batch, units)."
    )
    per_channel: bool = Field(True, description="One INT8 scale per output channel of a weight.")
    activations: Literal["uint8", "int8"] = Field(
        "uint8", description="INT8 activations; uint8 is faster on x86, int8 on ARM."
    )
    reduce_range: bool | None = Field(
        None, description="INT8 weights of 7 bits, for x86 without VNNI; null: where this machine has none."
    )
    weight_only: Literal["none", "int4", "int8"] = Field(
        "none",
        description="A further variant, `int4` or `int8_weights`, whose products have weights of 4 or 8 bits; for "
        "transformers. Made in an environment of its own: scripts/weight_only_env.sh.",
    )
    weight_only_python: str | None = Field(
        None, description="Python of that environment; null: .venvs/weight-only/bin/python."
    )
    http_hop: bool = Field(
        True, description="Start the service on the finished bundle and compare its answers, for the certificate."
    )
    golden_samples: int = Field(8, ge=1, description="Raw inputs with Keras's answers that travel in the bundle.")
    latency_runs: int = Field(
        50,
        ge=1,
        description="Timed runs per batch size; percentiles of them are reported. A search makes at most 20 times as "
        "many a trial.",
    )
