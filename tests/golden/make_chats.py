"""Chats as `transformers` renders them, into chats.json: `python tests/golden/make_chats.py`."""

import json
from pathlib import Path

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'assistant' %}
        {% set role = 'model' %}
    {% else %}
        {% set role = message['role'] %}
    {% endif %}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""
MARKED = """{% for message in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {% if message.role == 'assistant' %}
{% generation %}[{{ message | tojson }}]{% endgeneration %}
    {% else %}
        {%- set ns = namespace(shown=message.content.split('</think>')[-1].strip('\\n')) %}
({{ ns.shown }})
    {% endif %}
{% endfor %}
"""
TEMPLATES = {
    "smollm2": (SMOLLM2, ""),
    "llama3": (LLAMA, "<|begin_of_text|>"),
    "gemma": (GEMMA, "<bos>"),
    "marked": (MARKED, ""),
}

first = [{"role": "user", "content": "  Who are you? <b>&</b>\n"}]
answered = {"role": "assistant", "content": "A model. é"}
more = [*first, answered, {"role": "user", "content": "naïve 'quotes' \"x\"</think>\nso"}]
CHATS = {"first": first, "more": more, "system": [{"role": "system", "content": "Be brief.\n"}, *more]}


def rendered(template, start, messages):
    """What the template makes of a chat, or None where it refuses it."""
    names = {"bos_token": start} if start else {}
    try:
        return render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **names)[0][0]
    except TemplateError:
        return None


if __name__ == "__main__":
    golden = {
        name: {
            "template": text,
            "start": start,
            "chats": {key: rendered(text, start, chat) for key, chat in CHATS.items()},
        }
        for name, (text, start) in TEMPLATES.items()
    }
    where = Path(__file__).parent / "chats.json"
    where.write_text(json.dumps({"chats": CHATS, "templates": golden}, indent=1, ensure_ascii=False) + "\n")
