"""Answers of a service as examples: whole, in order, asked for once, whatever the service does."""

import fcntl
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus

import pytest

from llm_jax.cli import main
from llm_jax.core.table import UserError
from llm_jax.data.examples.chats import Chat
from llm_jax.data.examples.pairs import Pairs
from llm_jax.data.examples.readers import objects
from llm_jax.data.examples.records import Record
from llm_jax.data.service.client import Service
from llm_jax.data.service.label import label
from llm_jax.data.service.questions import Questions
from tests.data.answering import service

KEY = "sk-canary-6f1d"
RECORDS = [Record({"prompt": f"question {i}", "kind": "toy"}, f"p.jsonl:{i + 1}") for i in range(7)]
CHAT, BARE = Questions(model="toy"), Questions(model="toy", endpoint="completions", max_tokens=9)


def good(asked):
    asked.answer(asked.prompt.upper())


def ask(url, to, *, records=RECORDS, questions=CHAT, pause=lambda seconds: None, concurrency=3, **options):
    return label(records, questions, Service(url, pause=pause, **options), to, concurrency=concurrency)


def once(action, then=good):
    """Do something else with the first request."""
    return lambda asked: action(asked) if asked.number == 0 else then(asked)


@pytest.mark.parametrize("questions", [CHAT, BARE], ids=["chat", "completions"])
def test_each_record_gets_its_answer_and_the_forms_read_it(questions, tmp_path):
    with service(good) as (url, asked):
        done = ask(url, tmp_path / "a.jsonl", questions=questions)
    assert (done.added, done.empty, done.cut) == (7, 0, 0)
    assert {one.path for one in asked} == {f"/v1/{questions.kind.path}"}
    read = list(objects(tmp_path / "a.jsonl"))
    for record, before in zip(read, RECORDS, strict=True):
        prompt = before.values["prompt"]
        assert (
            Chat().texts(record) == Pairs(source="prompt", target="response").texts(record) == [prompt, prompt.upper()]
        )
        assert record.values["kind"] == "toy" and record.values["service"]["model"] == "toy-1"


def test_a_conversation_is_gone_on_with_and_the_system_prompt_stays_with_the_teacher(tmp_path):
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    with service(good) as (url, asked):
        questions = Questions(model="toy", system="Be brief.", temperature=0.0, extra={"seed": 1})
        ask(url, tmp_path / "a.jsonl", records=[Record({"messages": messages}, "p:1")], questions=questions)
    told = [{"role": "system", "content": "Be brief."}, *messages]
    assert asked[0].body == {"model": "toy", "messages": told, "max_tokens": 512, "temperature": 0.0, "seed": 1}
    (record,) = objects(tmp_path / "a.jsonl")
    assert Chat().conversation(record) == [*messages, {"role": "assistant", "content": "USER"}]


def test_lines_are_in_the_order_of_the_records_whoever_answers_first(tmp_path):
    late = threading.Event()

    def reply(asked):
        if asked.prompt == "question 0":
            assert late.wait(20)
        asked.answer(asked.prompt)
        if asked.prompt == "question 4":
            late.set()

    with service(reply) as (url, _):
        ask(url, tmp_path / "a.jsonl")
    assert [r.values["response"] for r in objects(tmp_path / "a.jsonl")] == [r.values["prompt"] for r in RECORDS]


def test_so_many_are_asked_at_once_and_no_more(tmp_path):
    lock, met, now, most = threading.Lock(), threading.Event(), [0], [0]

    def reply(asked):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                met.set()
        assert met.wait(20)
        threading.Event().wait(0.1)  # for one too many to come
        with lock:
            now[0] -= 1
        asked.answer("yes")

    with service(reply) as (url, _):
        ask(url, tmp_path / "a.jsonl", concurrency=2)
    assert most == [2]


def test_what_was_answered_before_a_failure_stays_and_only_the_rest_is_asked_again(tmp_path):
    def refuse(asked):
        asked.send(400, {"error": {"message": "too long"}}) if asked.prompt == "question 4" else good(asked)

    with service(good) as (url, _):
        ask(url, tmp_path / "whole.jsonl")
    with service(refuse) as (url, _), pytest.raises(UserError, match=r"p\.jsonl:5: http.*400 Bad Request: 'too long'"):
        ask(url, tmp_path / "a.jsonl")
    assert len((tmp_path / "a.jsonl").read_bytes().splitlines()) == 4
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write(b'{"prompt": "question 4", "resp')  # as a full disk leaves it
    for missing in (3, 0):
        with service(good) as (url, asked):
            done = ask(url, tmp_path / "a.jsonl")
        assert len(asked) == done.added == missing
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_model_that_says_nothing_makes_no_line_and_is_not_asked_again_in_between(tmp_path):
    def reply(asked):
        asked.answer(None if asked.prompt == "question 2" else " no ", finish="length")

    for added, empty in ((6, 1), (0, 0)):
        with service(reply) as (url, _):
            done = ask(url, tmp_path / "a.jsonl")
        assert (done.added, done.empty, done.cut) == (added, empty, added)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda asked: asked.send(500, b"<html>"),
        lambda asked: asked.send(200, b'{"choices": [{"mess', announce=60),
        lambda asked: asked.send(200, b'{"choices": [{"mess'),
        lambda asked: asked.send(200, {"choices": []}),
        lambda asked: asked.send(200, {"choices": [{"message": {"content": 7}}]}),
        lambda asked: None,
    ],
    ids=["500", "half", "torn", "no choice", "no text", "hung up"],
)
def test_a_service_that_stumbles_is_asked_again(wrong, tmp_path):
    pauses = []
    with service(once(wrong)) as (url, asked):
        ask(url, tmp_path / "a.jsonl", records=RECORDS[:1], pause=pauses.append)
    assert len(asked) == 2 and len(pauses) == 1 and 0.3 < pauses[0] < 0.6


@pytest.mark.parametrize("dribbles", [False, True])
def test_one_that_hangs_or_dribbles_is_given_up_and_asked_again(dribbles, tmp_path):
    over = threading.Event()

    def hang(asked):
        if dribbles:
            asked.send(200, b"{", announce=10**6)
        while not over.wait(0.02) and dribbles:
            asked._handler.wfile.write(b" ")

    with service(once(hang)) as (url, asked):
        ask(url, tmp_path / "a.jsonl", records=RECORDS[:1], timeout=0.3)
        over.set()
    assert len(asked) == 2


@pytest.mark.parametrize("status", [408, 409, 429, 503])
@pytest.mark.parametrize("dated", [False, True], ids=["number", "date"])
def test_a_busy_service_is_left_alone_for_as_long_as_it_asks(status, dated, tmp_path):
    pauses = []
    after = format_datetime(datetime.now(UTC) + timedelta(seconds=300)) if dated else "7"
    busy = once(lambda asked: asked.send(status, headers={"Retry-After": after}))
    with service(busy) as (url, _):
        ask(url, tmp_path / "a.jsonl", records=RECORDS[:1], pause=pauses.append)
    assert len(pauses) == 1 and (200 < pauses[0] <= 300 if dated else pauses[0] == 7)


def test_pauses_grow_and_end_in_an_error_that_says_what_to_do(tmp_path):
    pauses = []
    with (
        service(lambda asked: asked.send(503, {"error": "overloaded"})) as (url, asked),
        pytest.raises(UserError, match=rf"{url}/chat/completions: 503 .*'overloaded', 5 times; .*--concurrency"),
    ):
        ask(url, tmp_path / "a.jsonl", records=RECORDS[:1], pause=pauses.append, retries=4)
    assert len(asked) == 5 and all(0.75 * 0.5 * 2**i <= p <= 0.5 * 2**i for i, p in enumerate(pauses))
    with (
        service(lambda asked: asked.send(429, headers={"Retry-After": "86400"})) as (url, asked),
        pytest.raises(UserError, match="left alone for 86400 s"),
    ):
        ask(url, tmp_path / "b.jsonl", records=RECORDS[:1])
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "environment variable"), (403, "--key_from"), (404, "ends before /chat/completions"), (302, "sends to")],
)
def test_a_refusal_names_the_address_and_the_way_out_and_never_the_key(status, says, tmp_path, caplog):
    elsewhere = {"Location": "http://127.0.0.1:1/v1/chat/completions"}
    told = {"error": {"message": f"no such \x1b[31m thing for {KEY}"}}
    with (
        service(lambda asked: asked.send(status, told, elsewhere if status == 302 else {})) as (url, asked),
        pytest.raises(UserError) as refused,
    ):
        ask(url, tmp_path / "a.jsonl", records=RECORDS[:1], key=KEY)
    message = str(refused.value)
    assert f"{url}/chat/completions: {status} {HTTPStatus(status).phrase}" in message and says in message
    assert KEY not in message + caplog.text + repr(Service(url, KEY)) and "\x1b" not in message
    assert [one.headers["Authorization"] for one in asked] == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.org/v1", "unencrypted"), ("ftp://localhost/v1", "must be an address"),
        ("file:///etc/passwd", "must be an address"), ("https://me:word@example.org/v1", "plain address"),
    ],
)  # fmt: skip
def test_an_address_that_would_give_the_key_away_is_refused(url, says):
    with pytest.raises(UserError, match=says) as refused:
        Service(url, KEY)
    assert KEY not in str(refused.value) and "word@" not in str(refused.value)


def test_answers_to_other_questions_are_refused_and_left_as_they_are(tmp_path):
    to = tmp_path / "a.jsonl"
    with service(good) as (url, asked):
        ask(url, to)
        before, count = to.read_bytes(), len(asked)
        for questions, records in ((Questions(model="other"), RECORDS), (CHAT, RECORDS[1:])):
            with pytest.raises(UserError, match=r"a\.jsonl:1 answers none of these questions"):
                ask(url, to, questions=questions, records=records)
        for mine in (b'{"prompt": "mine"}', b'{"prompt": "mine"}\n{"prompt": "mi'):
            (tmp_path / "mine.jsonl").write_bytes(mine)
            with pytest.raises(UserError, match="is no answer of a service"):
                ask(url, tmp_path / "mine.jsonl")
            assert (tmp_path / "mine.jsonl").read_bytes() == mine
        with open(to, "ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another process"):
                ask(url, to)
        assert to.read_bytes() == before and len(asked) == count


def test_a_record_that_asks_nothing_is_named_before_any_is_asked(tmp_path):
    ends = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with service(good) as (url, asked):
        for values, says in (({"question": "x"}, "no field 'prompt'"), (ends, "'assistant', not 'user'")):
            with pytest.raises(UserError, match=f"p:9: .*{says}"):
                ask(url, tmp_path / "a.jsonl", records=[*RECORDS, Record(values, "p:9")])
    assert not asked
    with pytest.raises(UserError, match="--endpoint=chat"):
        Questions(model="toy", endpoint="completions", system="Be brief.")


def test_the_verb_reads_a_table_and_takes_the_key_from_the_environment(tmp_path, monkeypatch, capsys):
    (tmp_path / "p.csv").write_text('source,topic\nhello,a\n"good, bye",b\n')
    monkeypatch.setenv("MY_KEY", KEY)
    words = [f"--prompts={tmp_path}/p.csv", f"--to={tmp_path}/a.jsonl", "--prompt=source", "--response=target"]
    with service(good) as (url, asked):
        words += [f"--url={url}", "--model=toy", "--key_from=MY_KEY", '--extra={"top_p": 0.9}']
        assert main(["label", *words]) == 0
    assert [one.headers["Authorization"] for one in asked] == [f"Bearer {KEY}"] * 2
    assert all(one.body["top_p"] == 0.9 for one in asked)
    assert [Pairs().texts(r) for r in objects(tmp_path / "a.jsonl")] == [["hello", "HELLO"], ["good, bye", "GOOD, BYE"]]
    said = capsys.readouterr()
    assert "2 answers added" in said.out and KEY not in said.out + said.err + (tmp_path / "a.jsonl").read_text()
    for flag, says in {"--extra=[]": "an object", "--endpoint=chta": "'chat'", "--timeout=0": "above zero"}.items():
        kept = [word for word in words if not word.startswith(flag.partition("=")[0])]
        assert main(["label", *kept, flag]) == 2 and says in capsys.readouterr().err


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_requests_are_those_of_the_openai_client(tmp_path):
    from openai import OpenAI

    with service(good) as (url, asked):
        theirs = OpenAI(base_url=url, api_key=KEY)
        settings = {"model": "toy", "max_tokens": 5, "temperature": 0.5, "seed": 3}
        theirs.chat.completions.create(messages=[{"role": "user", "content": "question 0"}], **settings)
        theirs.completions.create(prompt="question 0", **settings)
        for endpoint in ("chat", "completions"):
            questions = Questions(model="toy", endpoint=endpoint, max_tokens=5, temperature=0.5, extra={"seed": 3})
            ask(url, tmp_path / endpoint, records=RECORDS[:1], questions=questions, key=KEY)
    for wanted, found in zip(asked[:2], asked[2:], strict=True):
        assert (found.path, found.body) == (wanted.path, wanted.body)
        for name in ("Authorization", "Content-Type", "Accept"):
            assert found.headers[name] == wanted.headers[name]


@pytest.mark.faults
def test_a_killed_process_leaves_whole_answers_and_is_gone_on_with(tmp_path):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record.values) + "\n" for record in RECORDS))
    reached, over = threading.Event(), threading.Event()

    def stop(asked):
        if asked.prompt == "question 3":
            reached.set()
            over.wait(60)
        good(asked)

    words = ["-m", "llm_jax", "label", "--model=toy", f"--prompts={tmp_path}/p.jsonl", f"--to={tmp_path}/a.jsonl"]
    with service(stop) as (url, _):
        job = subprocess.Popen([sys.executable, *words, f"--url={url}", "--concurrency=1"])
        assert reached.wait(60)
        job.kill()
        job.wait()
        over.set()
    assert [r.values["response"] for r in objects(tmp_path / "a.jsonl")] == ["QUESTION 0", "QUESTION 1", "QUESTION 2"]
    with service(good) as (url, asked):
        subprocess.run([sys.executable, *words, f"--url={url}"], check=True, timeout=60)
    assert sorted(one.prompt for one in asked) == [f"question {i}" for i in range(3, 7)]
    assert len(list(objects(tmp_path / "a.jsonl"))) == 7
