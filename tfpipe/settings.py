"""Every knob of a run as typed settings; `training` and `conversion` have modules of their own."""

from typing import Literal

from pydantic import Field

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.sections import Antialias, ChannelValues, Interpolation, Ints, Pair, Resize, Section, Strings
from tfpipe.training_settings import TrainingConfig

# Keys that a resumed run may change; all others belong to what the checkpoint holds.
RESUMABLE_KEYS = (
    "training.epochs",
    "training.sentinel_steps",
    "training.elastic",
    "training.elastic_commit_steps",
    "training.stall_s",
    "training.max_time",
    "training.placement",
    "training.threads",
    "training.allow_slow_precision",
    "training.timeline",
    "training.metrics_port",
    "training.metrics_host",
    "tracking.",
    "output_dir",
    "conversion.",
)


class DataConfig(Section):
    """Where samples come from and how they are read."""

    path: str = Field(
        description="Folder with one sub-folder per class, CSV or JSONL manifest (path, label), TFRecord shards "
        "(folder, file or glob), `digits`, or package.module:function; of texts, CSV, TSV or JSONL (text, label), a "
        "folder of .txt files, CoNLL, or `messages`."
    )
    validation_path: str | None = Field(None, description="Validation data, in any of the forms of data.path.")
    validation_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of data.path kept for validation, by class; unused with validation_path."
    )
    test_path: str | None = Field(None, description="Test data, scored once, at the end.")
    columns: Strings | None = Field(None, description="Column names of a table without a header.")
    text_column: str = Field("text", description="Column (or key) of a table of texts that holds the text.")
    label_column: str = Field("label", description="Column (or key) of a table of texts that holds the label.")
    multi_label: bool | None = Field(
        None,
        description="Whether a text may have several labels or none; default: where a JSONL file has lists of labels "
        "or a table has labels parted by `|`.",
    )
    max_text_chars: int = Field(100_000, ge=1, description="Longer texts, in characters, count as corrupt.")
    min_image_size: int = Field(1, ge=1, description="Smallest height and width in pixels; `validate` reports less.")
    max_image_pixels: int = Field(64_000_000, ge=1, description="Larger images count as corrupt.")
    balance_tolerance: float = Field(
        0.2,
        ge=0,
        description="`validate` warns where a class differs from the mean class size by more than this share.",
    )
    max_corrupt_fraction: float = Field(
        0.01, ge=0, le=1, description="Share of unreadable samples above which training stops."
    )
    cache: Literal["auto", "memory", "none"] = Field(
        "auto", description="Keep decoded and resized samples in memory: where they fit (auto), always, never."
    )


class AugmentationConfig(Section):
    """Random changes to training images; every one is a function of (seed, epoch, sample)."""

    horizontal_flip: bool = Field(False, description="Mirror left to right, half of the time.")
    vertical_flip: bool = Field(False, description="Mirror top to bottom, half of the time.")
    quarter_turns: bool = Field(False, description="Turn by 0, 90, 180 or 270 degrees; wants a square image_size.")
    rotation: float = Field(0.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    zoom: float = Field(0.0, ge=0, lt=1, description="Largest change of scale, as a share, either way.")
    translation: float = Field(0.0, ge=0, lt=1, description="Largest shift, as a share of height and width.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Largest change of contrast, as a share, either way.")
    brightness: float = Field(0.0, ge=0, lt=1, description="Largest change of brightness, as a share of full scale.")


class PreprocessingConfig(Section):
    """Keras layers that travel inside the model."""

    image_size: Pair = Field((32, 32), description="[height, width] of the model's input in pixels.")
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    antialias: Antialias = False
    normalization: Literal["auto", "imagenet", "adapt", "none", "fixed"] = Field(
        "auto",
        description="Mean and standard deviation per channel: those of the pretrained weights, or else adapted to the "
        "training data (auto); ImageNet's; adapted; none (values 0..1); fixed (preprocessing.mean and .std).",
    )
    mean: ChannelValues = None
    std: ChannelValues = None
    augmentation: AugmentationConfig = AugmentationConfig()
    tokenizer: str | None = Field(
        None,
        description="Of texts: a folder of `python -m tfpipe.data train-tokenizer`, or a keras-nlp preset; default: "
        "that of model.preset, or else one trained on the training texts.",
    )
    tokenizer_kind: Literal["wordpiece", "bpe", "sentencepiece"] = Field(
        "wordpiece", description="Kind of a tokenizer that is trained on the training texts."
    )
    vocabulary_size: int = Field(8000, ge=10, description="Largest vocabulary of a tokenizer that is trained.")
    lowercase: bool = Field(False, description="A tokenizer that is trained makes no difference between cases.")
    max_length: int = Field(
        128, ge=3, description="Tokens of a text that the model sees at once, the first and the last special one too."
    )


class ModelConfig(Section):
    """Which network."""

    name: str = Field("small_cnn", description="A name of tfpipe.models, or package.module:function.")
    weights: str = Field(
        "random", description="`random`, `imagenet` (fetched by Keras), or a local .keras or .weights.h5 file."
    )
    preset: str | None = Field(
        None, description="bert, roberta and distilbert: pretrained, a keras-nlp preset's name or local folder."
    )
    num_layers: int = Field(2, ge=1, description="Transformer layers where there is no preset.")
    width: int = Field(
        128, ge=1, description="Of the embeddings of a model of texts, and of a transformer's layers, without a preset."
    )
    num_heads: int = Field(2, ge=1, description="Attention heads where there is no preset.")
    feed_forward_width: int | None = Field(
        None, ge=1, description="Between a transformer layer's two dense ones, without a preset; default: 4 * width."
    )
    freeze_embeddings: bool = Field(False, description="Leave the embeddings of a model of texts as they are.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the head.")
    freeze_backbone: bool = Field(False, description="Train the head alone until unfreeze_epochs say otherwise.")
    unfreeze_epochs: Ints = Field(
        (),
        description="Epochs (from 0) at which a further equal share of the backbone, from the head down, "
        "starts to train; the last one frees all.",
    )


class TrackingConfig(Section):
    """The MLflow run and the registry."""

    uri: str = Field("sqlite:///mlflow.db", description="Tracking store and registry.")
    experiment: str = Field("tfpipe", description="MLflow experiment.")
    registered_model: str | None = Field(None, description="Name in the registry; none: logged, not registered.")
    tags: dict[str, str] = Field({}, description="Tags of the run.")
    min_metrics: dict[str, float] = Field(
        {}, description="Least value of final metrics, e.g. {val_accuracy: 0.9}; missed: not registered, exit code 3."
    )
    retry_s: float = Field(60.0, ge=0, description="Seconds for which a server that is away is tried again.")


class Config(Section):
    """One run."""

    task: Literal["image_classification", "text_classification", "token_classification"] = Field(
        "image_classification", description="What is learnt."
    )
    data: DataConfig
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    tracking: TrackingConfig = TrackingConfig()
    conversion: ConversionConfig = ConversionConfig()
    output_dir: str = Field(
        "runs/${now:%Y%m%d-%H%M%S}", description="Where the run writes; `${now:FORMAT}` gives the time."
    )
