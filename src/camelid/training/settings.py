"""What a person can set about training; the defaults are the paper's where it gives them (sections 2.2 and 2.3)."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from camelid.parallel.settings import MeshSettings
from camelid.planning.memory import Recompute
from camelid.settings import Settings

Precision = Literal["float32", "bfloat16", "float8", "float64"]
"""Types of matrix products."""


class TrainSettings(Settings):
    """Training on one device or many."""

    steps: int = Field(gt=0)
    """Number of optimizer steps."""
    sequence_length: int = Field(2048, gt=0)
    """Tokens that the model sees at once."""
    batch_tokens: int = Field(4_194_304, gt=0)
    """Tokens of one optimizer step; a multiple of sequence_length."""
    microbatch_sequences: int = Field(0, ge=0)
    """Sequences that go through the model at once in a process, a divisor of its part of the batch; 0 for all of it."""
    mesh: MeshSettings = MeshSettings()
    """How the training is spread over processes."""
    timeout_seconds: float = Field(120, ge=1)
    """How long a process may be silent, or a step take where all were faster, before the others end and name it."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    final_learning_rate_share: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""
    warmup_steps: int = Field(2000, ge=0)
    """Steps over which the learning rate rises to its peak."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay rate of the gradient average."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay rate of the squared-gradient average."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to AdamW's denominator; the paper does not give its own."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay of the matrices, embeddings included."""
    is_gain_decayed: bool = False
    """Whether the gains of the norms decay too."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient; a longer one is scaled down."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    precision: Literal["auto", Precision] = "auto"
    """Type of matrix products; auto is bfloat16 where that is faster than float32, float64 is to compare meshes."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Whether each layer runs as generated code; auto does so where a compiler is there."""
    recompute: Literal["auto", Recompute] = "auto"
    """What the backward pass computes again to save memory: nothing, the cheap, the cheap in one piece, or all; auto is
    selective where layers run as generated code in one piece, and none elsewhere."""
    num_threads: int = Field(0, ge=0)
    """Processor threads, 0 for one per core; the same number gives the same bytes."""
    held_out_interval: int = Field(500, gt=0)
    """Steps between two measurements of the held-out loss."""
    held_out_tokens: int = Field(100_000, gt=0)
    """Held-out tokens per source that each measurement reads, rounded up to whole documents."""
    sample_interval: int = Field(1000, gt=0)
    """Steps between two samples of the model's text."""
    sample_prompts: tuple[str, ...] = ("",)
    """Beginnings that the samples continue."""
    sample_tokens: int = Field(128, gt=0)
    """Length of a sample in tokens."""
    checkpoint_interval: int = Field(1000, gt=0)
    """Steps between two checkpoints."""
    num_kept_checkpoints: int = Field(2, gt=0)
    """Latest checkpoints to keep; older ones are deleted once a newer one is safe on disk."""
    permanent_checkpoint_interval: int = Field(0, ge=0)
    """Steps between two checkpoints that are never deleted, 0 for none; a multiple of checkpoint_interval."""
    spike_deviations: float = Field(8.0, ge=0)
    """Robust standard deviations that a spike is above the running median of the loss; 0 lets any finite loss pass."""
    spike_window: int = Field(128, ge=2)
    """Steps that the running median and spread are taken over, and before which no finite loss is a spike."""
    calm_steps: int = Field(32, ge=0)
    """Steps without a spike after which a checkpoint counts as good and a spike as cured."""
    max_rollbacks: int = Field(20, ge=0)
    """Spikes that are rolled back before the training gives up."""
    norm_interval: int = Field(0, ge=0)
    """Steps between two records of the norms of each layer's weights, gradient and activations; 0 for none."""
    is_tensorboard_written: bool = False
    """Whether the metrics are written as a TensorBoard event file too."""
    is_data_verified: bool = True
    """Whether every byte of the dataset is compared with its manifest before the first step."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens:,} is not a multiple of sequence_length {self.sequence_length:,}"
            )
        if self.batch_sequences % self.mesh.num_data_ranks:
            raise ValueError(
                f"the batch of {self.batch_sequences:,} sequences does not divide by mesh.replicate "
                f"{self.mesh.replicate} x shard {self.mesh.shard}; choose batch_tokens or axes that divide"
            )
        if self.sequences_per_process % self.microbatch_size:
            raise ValueError(
                f"microbatch_sequences {self.microbatch_sequences} does not divide the {self.sequences_per_process:,} "
                "sequences of a process"
            )
        if self.permanent_checkpoint_interval % self.checkpoint_interval:
            raise ValueError(
                f"permanent_checkpoint_interval {self.permanent_checkpoint_interval:,} is not a multiple of "
                f"checkpoint_interval {self.checkpoint_interval:,}"
            )
        if self.recompute == "by_hand" and self.mesh.context > 1:
            raise ValueError('recompute "by_hand" does not know mesh.context; set recompute to "auto"')
        if self.precision == "float8" and (self.recompute == "by_hand" or self.mesh.tensor > 1):
            raise ValueError(
                'precision "float8" knows neither recompute "by_hand" nor mesh.tensor; set them to "auto" and 1'
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps:,} must be below steps {self.steps:,}")
        return self

    @property
    def batch_sequences(self) -> int:
        """Sequences of one optimizer step."""
        return self.batch_tokens // self.sequence_length

    @property
    def sequences_per_process(self) -> int:
        """Sequences of one optimizer step that a process reads."""
        return self.batch_sequences // self.mesh.num_data_ranks

    @property
    def microbatch_size(self) -> int:
        """Sequences that go through the model at once in one process."""
        return self.microbatch_sequences or self.sequences_per_process

    def choose_recompute(self, is_compiled: bool) -> Recompute:
        """What is computed again where layers run as generated code, or do not.

        `selective` pays in one piece of generated code alone (docs/experiments.md), and the ring of the context axis
        interrupts that: its keys and values would go round once more too.
        """
        if self.recompute != "auto":
            return self.recompute
        return "selective" if is_compiled and self.mesh.context == 1 else "none"

    def identity(self) -> dict[str, Any]:
        """What the result depends on, apart from its last bits: a training may go on on another mesh."""
        return self.model_dump(mode="json", exclude={"mesh", "timeout_seconds"})


class InstructSettings(Settings):
    """Fine-tuning on instructions: a model learns the answers of chats (paper section 4)."""

    model: str
    """The model to begin with: a name, a folder, a file or a hub id."""
    chats: tuple[str, ...] = Field(min_length=1)
    """Files of chats as JSON lines, relative to the recipe's folder, each line with a list of messages."""
    template: str | None = None
    """How chats are written, a name such as llama2 or a Jinja text; the model's own template unless given."""
    held_out_share: float = Field(0.05, gt=0, lt=1)
    """Share of the chats that is measured on and not learnt, chosen by a hash."""
