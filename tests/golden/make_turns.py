"""Write turns.json: what `transformers` renders of whole chats, and which characters of it are an answer.

The templates are those of chats.json with `{% generation %}` round what a model says, as `trl` marks them.

    python tests/golden/make_turns.py
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
CHATS = {
    "one": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model. é"}],
    "two": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "  2\n"},
        {"role": "user", "content": "'more'"},
        {"role": "assistant", "content": "<b>3</b>\n\nthen 4"},
    ],
    "unanswered": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
}
GEMMA = (  # as it is published, on one line; that of chats.json indents turns, but not the header of an answer
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
MARKED = {
    "smollm2": (
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
        "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
        "{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}",
    ),
    "llama3": (
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
        "'<|eot_id|>' }}",
        "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}"
        "{{- message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}"
        "{{- message['content'] | trim + '<|eot_id|>' }}{% endif %}",
    ),
    "gemma": (
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}",
        "{{ '<start_of_turn>' + role + '\\n' }}{% if role == 'model' %}{% generation %}{{ message['content'] | trim + "
        "'<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ message['content'] | trim + '<end_of_turn>\\n' }}"
        "{% endif %}",
    ),
}  # fmt: skip


def marked(template: str, name: str) -> str:
    """Return a template with its answers marked."""
    old, new = MARKED[name]
    assert old in template, name
    return template.replace(old, new)


def main() -> None:
    """Render every chat by every template."""
    known = json.loads((HERE / "chats.json").read_text("utf-8"))["templates"]
    found = {}
    for name in MARKED:
        template, start = GEMMA if name == "gemma" else known[name]["template"], known[name]["start"]
        given = {"add_generation_prompt": False, "bos_token": start}
        plain, _ = render_jinja_template(list(CHATS.values()), chat_template=template, **given)
        texts, spans = render_jinja_template(
            list(CHATS.values()), chat_template=marked(template, name), return_assistant_tokens_mask=True, **given
        )
        assert plain == texts
        found[name] = {
            "template": template,
            "start": start,
            "chats": {
                key: {"text": text, "answers": [text[a:b] for a, b in where]}
                for key, text, where in zip(CHATS, texts, spans, strict=True)
            },
        }
    (HERE / "turns.json").write_text(
        json.dumps({"chats": CHATS, "templates": found}, ensure_ascii=False, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
