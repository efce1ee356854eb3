"""How a model graph is stored and computed in INT8: the recipes, which a model takes first, and what a search tries."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.provenance import cpu_features

# "all": whatever has an INT8 form, activations between operators included, as convolutional networks take it well.
# "products": only what goes into a product or convolution with a stored weight is rounded; what comes out, attention,
# normalisation and activation functions stay float32. Embeddings and recurrent kernels are stored in INT8.
Operators: TypeAlias = Literal["all", "products"]
DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Recipe:
    """How a model graph is quantised.

    Softmax and Sigmoid stay in float32 in every recipe: stored in steps of 1/255, small probabilities would be 0.

    Attributes:
        operators: What is computed in INT8.
        calibration_method: How ranges of activations are set: "minmax", "entropy" or "percentile" of training samples;
            "dynamic": the range of each batch as it comes, for products alone.
        per_channel: One scale per output channel of a weight.
        activations: "uint8", the fast one on x86, or "int8", on ARM. Dynamic ones are uint8.
        reduce_range: Weights of 7 bits, see `products_saturate`.
        keep_depthwise: Depthwise convolutions stay in float32: few weights, whose channels differ most in range.
        keep: Names of nodes that stay in float32, as measured by `tfpipe.convert.sensitivity`.
    """

    operators: Operators
    calibration_method: str
    per_channel: bool = True
    activations: Literal["uint8", "int8"] = "uint8"
    reduce_range: bool = False
    keep_depthwise: bool = False
    keep: tuple[str, ...] = ()

    @property
    def is_dynamic(self) -> bool:
        """Whether a row's answer depends on the rows beside it."""
        return self.calibration_method == DYNAMIC

    @property
    def disabled_optimizers(self) -> tuple[str, ...]:
        """What ONNX Runtime is to leave out as it loads the variant."""
        # The fused normalisation is slower in a dynamically quantised graph.
        return ("SkipLayerNormFusion",) if self.is_dynamic else ()

    @property
    def title(self) -> str:
        """As reports name it, e.g. "percentile, depthwise convolutions kept in float32"."""
        parts = [
            self.calibration_method,
            "products alone" if self.operators == "products" and not self.is_dynamic else "",
            "" if self.per_channel else "one scale a weight",
            "int8 activations" if self.activations == "int8" else "",
            "weights of 7 bits" if self.reduce_range else "",
            "depthwise convolutions kept in float32" if self.keep_depthwise else "",
            f"{len(self.keep)} operator{'s' * (len(self.keep) > 1)} kept in float32" if self.keep else "",
        ]
        return ", ".join(part for part in parts if part)

    def describe(self) -> dict[str, Any]:
        """For the bundle's manifest."""
        if self.operators == "all":
            computed, stored = "every operator with an INT8 form but Softmax and Sigmoid", ""
        else:
            computed = "products with stored weights" + ("" if self.is_dynamic else ", convolutions")
            stored = "embeddings, one scale per row; kernels of recurrent layers"
            stored += " and convolutions" if self.is_dynamic else ""
        return {
            "format": "MatMulInteger" if self.is_dynamic else "QDQ",
            "weights": "int8",
            "activations": self.activations,
            "operators": self.operators,
            "computed_in_int8": computed,
            "stored_in_int8": stored,
            "calibration_method": self.calibration_method,
            "per_channel": self.per_channel,
            "reduce_range": self.reduce_range,
            "keep_depthwise": self.keep_depthwise,
            "kept_in_float32": list(self.keep),
            "disabled_optimizers": list(self.disabled_optimizers),
        }


def default_recipes(
    config: ConversionConfig, operators: Operators, features: Collection[str] | None = None
) -> tuple[Recipe, ...]:
    """What a model takes without a search, in order, until the score holds.

    Those whose rows do not depend on each other come first.

    Args:
        config: What the user said.
        operators: What the model's family takes well.
        features: The processor's; None: of this machine.
    """
    if config.calibration_method != "auto":
        return (_recipe(config, operators, config.calibration_method, features),)
    minmax, percentile = (_recipe(config, operators, method, features) for method in ("minmax", "percentile"))
    if operators == "all":
        return minmax, replace(percentile, keep_depthwise=True)
    return minmax, percentile, _recipe(config, operators, DYNAMIC, features)


def further_recipes(
    config: ConversionConfig, operators: Operators, features: Collection[str] | None = None
) -> tuple[Recipe, ...]:
    """What a search tries beside `default_recipes`, the most promising first; none that differs from what was set."""
    minmax = _recipe(config, operators, "minmax", features)
    if operators == "all":
        tried = [
            replace(minmax, calibration_method="percentile"),
            # Networks of images with attention, whose sums past a layer lose most.
            replace(minmax, operators="products"),
            replace(minmax, calibration_method="entropy"),
            _recipe(config, operators, DYNAMIC, features),
        ]
    else:
        tried = [replace(minmax, calibration_method="entropy")]
    tried += [
        replace(minmax, activations="int8" if minmax.activations == "uint8" else "uint8"),
        replace(minmax, per_channel=not minmax.per_channel),
    ]
    if minmax.reduce_range:
        tried.append(replace(minmax, reduce_range=False))
    defaults = default_recipes(config, operators, features)
    return tuple(recipe for recipe in tried if recipe not in defaults)


def products_saturate(features: Collection[str]) -> bool:
    """Whether a processor adds pairs of uint8 x int8 products in 16 bits, which overflow unless weights have 7 bits.

    So do AVX2 and AVX-512 without VNNI. Of a processor whose features are unknown nothing is assumed.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPMADDUBSW; ONNX Runtime documentation,
    "Quantize ONNX models", When and why do I need to try U8U8.

    Args:
        features: As Linux names them in /proc/cpuinfo, e.g. {"avx2", "avx512_vnni"}.
    """
    return "avx2" in features and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(features)


def _recipe(config: ConversionConfig, operators: Operators, method: str, features: Collection[str] | None) -> Recipe:
    if method == DYNAMIC:
        return Recipe("products", DYNAMIC, config.per_channel, reduce_range=_reduces_range(config, features))
    return Recipe(
        operators, method, config.per_channel, config.activations, reduce_range=_reduces_range(config, features)
    )


def _reduces_range(config: ConversionConfig, features: Collection[str] | None) -> bool:
    if config.reduce_range is not None:
        return config.reduce_range
    return products_saturate(cpu_features() if features is None else features)
