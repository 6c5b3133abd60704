"""The settings of methods that go another way than stage after stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deepcompress.recipe.kinds import Choice, Number
from deepcompress.recipe.setting import When, setting

METHODS = ("stages", "lc", "latent", "variational", "sws")

#: Methods for pruning alone, after which values are shared as always.
PRUNING_ONLY = ("variational",)

#: Methods with a prior on the weights, which is no penalty of the recipe.
PRIORS = ("variational", "sws")

MOST_MEANS = 256  # of a mixture: all are looked at for each weight


@dataclass(frozen=True)
class Method:
    """How pruning, sharing and training go together."""

    heading: ClassVar[str] = "Method"

    method: str = setting(
        "stages", Choice(METHODS), "stages: prune and retrain, then share and tune. lc: train and compress in turn, "
        "until the trained weights are the compressed ones. latent: train weights behind the few values that the "
        "network computes with; binary with --levels 2 --prune 0, ternary with --levels 2. variational: each weight "
        "learns how much noise it bears, and the noisiest go; for --optimizer adam. sws: a mixture of Gaussians draws "
        "the weights to zero and to few values, and is learned with them; for --optimizer adam.",
        note="lc: Carreira-Perpiñán and Idelbayev 2017 and 2018. latent: Courbariaux, Bengio and David 2015, and Zhu "
        "et al. 2017. variational: sparse variational dropout, Molchanov, Ashukha and Vetrov 2017. sws: soft weight "
        "sharing, Ullrich, Meeds and Welling 2017. See quantize.lc, quantize.straight_through, prune.variational and "
        "quantize.soft_sharing.",
    )  # fmt: skip
    lc_mu: float | None = setting(
        None, Number(0, above=True), "How strongly the first epoch pulls weights to their compressed values.",
        metavar="MU", unset="what takes off 14 % of the distance in that epoch", when=When("method", ("lc",)),
    )  # fmt: skip
    lc_growth: float | None = setting(
        None, Number(1), "Factor by which that grows with each epoch.", metavar="FACTOR",
        unset="what makes it 100 times as large in the end", when=When("method", ("lc",)),
    )  # fmt: skip
    kl_weight: float = setting(
        1.0, Number(0, above=True), "Weight of the divergence from the prior, which makes weights noisy. Lower it for "
        "few training samples.", metavar="W", when=When("method", ("variational",)),
        note="1 is the paper's. With too much, more weights become noise than are to be pruned, and the error rises.",
    )  # fmt: skip
    sws_tau: float = setting(
        0.005, Number(0, above=True), "Weight of the prior in the first epoch; in the last it is 100 times as large. "
        "More of it puts weights nearer to their shared values, and the loss counts less.", metavar="TAU",
        when=When("method", ("sws",)), note="0.005 is the paper's, throughout.",
    )  # fmt: skip
