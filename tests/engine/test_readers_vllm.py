"""What vLLM adds, and the bytes behind broken tokens."""

from __future__ import annotations

import pytest

from engine.errors import UserError
from engine.readers import with_tokenizer
from engine.tokenization import Tokenizer
from tests.engine.logs import (
    CONTENT,
    SAID,
    chat,
    completion,
    drop,
    entry,
    position,
    reasons,
    trace_in,
    vllm,
    words,
)
from tests.engine.tiny import tiny_folder


def test_vllm_puts_the_chosen_token_first_whatever_its_rank() -> None:
    content = [
        entry("a", -3.0, [("a", -3.0), ("b", -0.2)]),
        entry("b", -1.0, [("b", -1.0), ("c", -2.0)]),
        entry("c", -2.0, [("c", -2.0)]),
    ]
    found = drop(vllm(content, "abc"))
    assert (found.kind, found.title[:4]) == ("vllm", "vLLM")
    candidates = trace_in(found).candidates
    assert candidates is not None
    assert [[c.piece for c in listed] for listed in candidates] == [[b"b"], [b"b", b"c"], []]


def test_broken_characters_are_found_again_by_the_text() -> None:
    broken = ["\ufffd", "\ufffd"]
    content = [
        entry(t, -1.0) for t in ("A", " \ufffd", *broken, "\ufffd", "!", *broken, "", "<|im_end|>")
    ]
    found = drop(vllm(content, "A 😀!“"))
    trace = trace_in(found)
    assert trace.pieces[:6] == (b"A", b" \xf0", b"\x9f", b"\x98", b"\x80", b"!")
    assert b"".join(trace.pieces[6:8]) == "“".encode()
    assert trace.pieces[9] == b"<|im_end|>"
    assert (trace.special, trace.exact) == ((9,), True)
    assert "tokens 6, 7 of the response share the bytes" in reasons(found)


def test_bytes_nobody_can_know_are_said_to_be_unknown() -> None:
    content = [entry("A", -1.0), entry("\ufffd", -1.0)]
    for text in (None, "something else"):
        found = drop(vllm(content, text))  # type: ignore[arg-type]
        trace = trace_in(found)
        assert not trace.exact
        assert "the exact bytes of the response's tokens" in reasons(found)
        assert trace.spans == {}


def test_an_own_replacement_character_is_no_mistake() -> None:
    trace = trace_in(drop(chat([entry("\ufffd", -1.0), entry("x", -1.0)], "\ufffdx")))
    assert (trace.exact, trace.response_text) == (True, "\ufffdx")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["Hello", "Ġthe", "Ċ", "âĢľ"], "Hello the\n“"),
        (["▁Hello", "▁the", "<0x0A>"], "Hello the\n"),
        (["Hello", " the", "</s>"], "Hello the"),
    ],
)
def test_spelling_of_the_vocabulary(tokens: list[str], text: str) -> None:
    trace = trace_in(drop(completion(tokens, [-1.0] * len(tokens), None, text)))
    assert trace.exact
    assert (
        b"".join(p for n, p in enumerate(trace.pieces) if n not in trace.special).decode() == text
    )


def test_thoughts_that_a_parser_took_out_are_a_turn_of_their_own() -> None:
    content = [entry(t, -1.0) for t in ("<think>", "so", "</think>", "\n", "4", "<|end|>")]
    body = vllm(content, "4")
    body["choices"][0]["message"]["reasoning_content"] = "so"
    trace = trace_in(drop(body))
    assert [(t.role, t.start, t.end) for t in trace.turns] == [
        ("thinking", 0, 4),
        ("assistant", 4, 6),
    ]
    assert trace.exact


def test_prompt_logprobs() -> None:
    prompt = [
        None,
        position((10, "Say", -3.0, 4), (11, "The", -1.0, 1), (12, "A", -1.5, 2)),
        position((13, " 4", -0.5, 1), (14, " 5", -2.0, 2)),
    ]
    body = completion(["token_id:20"], [-0.1], [{"token_id:20": -0.1, "token_id:21": -3.0}], " ok")
    body["choices"][0]["prompt_logprobs"] = prompt
    found = drop(body)
    trace = trace_in(found)
    assert trace.ids == (-1, 10, 13, 20)
    assert trace.pieces == (b"", b"Say", b" 4", b"token_id:20")
    assert trace.signals["logprob"] == (None, -3.0, -0.5, -0.1)
    assert trace.signals["rank"] == (None, 4.0, 1.0, None)
    assert trace.candidates is not None
    assert [[c.id for c in listed] for listed in trace.candidates] == [
        [],
        [11, 12],
        [13, 14],
        [20, 21],
    ]
    assert (trace.response_start, trace.exact) == (3, False)
    named = {**body, "prompt_token_ids": [1, 10, 13]}
    assert trace_in(drop(named)).ids == (1, 10, 13, 20)
    wrong = drop({**body, "prompt_token_ids": [1, 10, 99]})
    assert trace_in(wrong).response_start == 0
    assert "token 99 is not among those listed: the prompt's tokens are left out" in reasons(wrong)


def test_sorting_has_lost_which_token_it_was() -> None:
    place = position((11, "a", -1.0, 1), (12, "b", -1.5, 2), (13, "c", -2.5, 3))
    found = drop({**vllm([entry("x", -1.0)], "x"), "prompt_logprobs": [None, *[place] * 6]})
    assert trace_in(found).response_start == 0
    assert "the ids are sorted" in reasons(found)


def test_request_output() -> None:
    body = {
        "request_id": "0",
        "prompt": "Say",
        "prompt_token_ids": [5],
        "prompt_logprobs": None,
        "outputs": [
            {
                "index": 0,
                "text": " 4!",
                "token_ids": [6, 7],
                "logprobs": [
                    position((6, " 4", -0.1, 1), (8, " 5", -3.0, 2)),
                    position((7, "!", -5.0, 90), (9, ".", -0.1, 1)),
                ],
                "finish_reason": "stop",
            }
        ],
    }
    found = drop(body)
    trace = trace_in(found)
    assert found.title == "vLLM request output, 1 choice with log-probabilities"
    assert trace.ids == (5, 6, 7)
    assert trace.has_ids
    assert trace.signals["rank"] == (None, 1.0, 90.0)
    assert trace.candidates is not None
    assert [[c.id for c in listed] for listed in trace.candidates] == [[], [6, 8], [9]]
    assert words(found) == [("Say", " 4!")]


def test_ids_become_bytes_with_the_tokenizer_they_came_from() -> None:
    tokenizer = Tokenizer.load(tiny_folder("llama"))
    tokens = [f"token_id:{i}" for i in b"h\xc3\xa9"]
    tops = [{t: -1.0, "token_id:65": -2.0} for t in tokens]
    found = drop(completion(tokens, [-1.0] * 3, tops, "hé"))
    logged = trace_in(found)
    assert (logged.has_ids, logged.exact) == (True, False)
    trace = with_tokenizer(logged, tokenizer)
    assert trace.pieces == (b"h", b"\xc3", b"\xa9")
    assert trace.candidates is not None
    assert trace.candidates[1][1].piece == b"A"
    assert (trace.exact, trace.tokenizer) == (True, tokenizer.digest)
    assert trace.signals == logged.signals
    body = vllm([entry("x", -1.0)], "x")
    body["choices"][0]["token_ids"] = [104]
    with pytest.raises(UserError, match=r"Token 0 is “h” in .* but not in the log"):
        with_tokenizer(trace_in(drop(body)), tokenizer)
    with pytest.raises(UserError, match="does not give the id of every token"):
        with_tokenizer(trace_in(drop(chat(CONTENT, SAID))), tokenizer)
