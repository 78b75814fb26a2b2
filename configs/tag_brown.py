"""Parts of speech of the Brown corpus, 92 tags: an encoder from scratch, :lstm, or :hmm, counted in one pass.

Measured on 5,720 held-out sentences: accuracy 0.961 (5 minutes), :lstm 0.947 (2 minutes; it reads from left to right),
:hmm 0.953 (4 seconds), beside 0.950 of nltk's hidden Markov model by Lidstone's counts.

python -m llm_jax fetch brown
python -m llm_jax train --config=configs/tag_brown.py --workdir=runs/tags
python -m llm_jax classify --workdir=runs/tags --text="The old man the boats ."
"""

from typing import Literal

from ml_collections import ConfigDict

TAGS = (
    "nn in at jj . , nns np cc rb vb vbn vbd cs pps vbg pp$ ppss to cd md ppo bez bedz ap dt `` '' ql vbz be rp wdt "
    "hvd * wrb ber hv wps -- bed abn dti np$ pn ben hvz ) dts ( ex od jjr nr nn$ do : dod nps ppl rbr jjt abx beg uh "
    "doz jjs abl ppls nns$ ' wpo hvg qlp wp$ hvn bem wql pp$$ nil dtx rbt pn$ nr$ nps$ nrs ap$ rb$ rn dt$ cd$ jj$"
)

MODELS = {
    "bert": {"name": "bert", "num_layers": 2, "embed_dim": 128, "num_heads": 4, "dropout": 0.1, "pooler": False,
             "head": False},
    "lstm": {"name": "lstm", "num_layers": 1, "embed_dim": 128, "dropout": 0.2},
    "hmm": {"name": "hmm", "floor": 0.01},
}  # fmt: skip


def get_config(model: Literal["bert", "lstm", "hmm"] = "bert") -> ConfigDict:
    """Return the recipe."""
    counted = model == "hmm"
    at = "last" if model == "lstm" else "first"  # it reads from left to right
    return ConfigDict({
        "model": MODELS[model],
        "objective": {"name": "tagging"},
        "optimizer": {
            "name": "adamw", "learning_rate": 2e-3, "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_steps": 100},
        },
        "data": {
            "source": "published", "options": {"name": "brown"},
            "form": {"name": "tagged", "classes": TAGS.split(), "long": "cut", "at": at},
            "tokenizer": {"name": "bpe", "vocab_size": 16384 if counted else 8192}, "batch_size": 64, "seq_len": 64,
        },
        "train": {"duration": "1 epochs" if counted else "2 epochs", "learner": "counting" if counted else "gradient"},
        "eval": {"epochs": 0 if counted else 1, "batches": None},
        "checkpoint": {"every": 1000},
        "log": {"every": 100},
    })  # fmt: skip
