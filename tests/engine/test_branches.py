"""Forks, their continuations, and the tree they make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

import engine
from engine import Request, Trace, UserError
from engine.branching.branches import (
    ORIGIN,
    Branch,
    Place,
    Tree,
    add,
    branch_of,
    branch_of_trace,
    children,
    continuation,
    forced_logprob,
    fork,
    judged,
    path,
    places,
    remove,
    trace_at,
    verdict_at,
    walk,
)
from engine.branching.branchfile import MAX_BYTES, dumps, group_of, loads
from engine.tokenization import Tokenizer
from engine.trace import Parent, Sampling, Span, Turn
from engine.workspace import Workspace
from tests.engine.test_tokenization import sentencepiece_like
from tests.engine.tiny import BOS, EOS

TEXT = engine.Text(prompt="Question: 3+4?\n", response="Solution: 3+4=8\nAnswer: 8")
EIGHT = TEXT.prompt.encode() + b"Solution: 3+4="
AT = 1 + len(EIGHT)  # one token a byte, after <bos>


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("branches")) as made:
        yield made


@pytest.fixture(scope="module")
def tokenizer(llama: str) -> Tokenizer:
    return Tokenizer.load(llama)


@pytest.fixture(scope="module")
def trace(world: Workspace, llama: str) -> Trace:
    return engine.encode(TEXT, llama, world)


# -- forking ----------------------------------------------------------------------------------


def test_the_beginning_stays_and_the_forced_token_follows(trace, tokenizer):
    forked = fork(trace, AT, "7", tokenizer)
    assert forked.ids == (*trace.ids[:AT], ord("7"))
    assert forked.text_bytes == EIGHT + b"7"
    assert forked.parent == Parent(digest=trace.digest, position=AT)
    assert forked.response_start == trace.response_start
    assert forked.roles == (*trace.roles[:AT], "assistant")
    assert forked.turns[:-1] == trace.turns[:-1]
    assert forked.spans["question"] == trace.spans["question"]
    assert "answer" not in forked.spans
    assert (forked.added, forked.special) == ((0,), (0,))
    assert forked.exact
    assert forked.sampling is None


@pytest.mark.parametrize("forced", ["7", b"7", ord("7")], ids=["text", "bytes", "id"])
def test_text_bytes_and_id_are_one_fork(trace, tokenizer, forced):
    assert fork(trace, AT, forced, tokenizer).digest == fork(trace, AT, "7", tokenizer).digest


def test_typed_text_may_be_many_tokens(trace, tokenizer):
    forked = fork(trace, AT, "é7<eos>", tokenizer)
    assert forked.ids[AT:] == (*"é".encode(), ord("7"), EOS)
    assert forked.special == (0, AT + 3)
    assert forked.parent.position == AT


def test_a_byte_that_is_no_text_is_a_token(trace, tokenizer):
    forked = fork(trace, AT, b"\xc3", tokenizer)
    assert forked.pieces[AT:] == (b"\xc3",)
    with pytest.raises(UserError, match=r"\\xc3\\xff are neither text nor one token"):
        fork(trace, AT, b"\xc3\xff", tokenizer)


def test_what_was_said_anyway_differs_only_behind_it(trace, tokenizer):
    assert fork(trace, AT, "8\nAns", tokenizer).parent.position == AT + 5
    again = fork(trace, AT, "", tokenizer)
    assert again.ids == trace.ids[:AT]
    assert again.parent.position == AT


def test_a_fork_in_the_prompt_makes_everything_after_it_response(trace, tokenizer):
    at = 1 + len("Question: ")
    forked = fork(trace, at, "5", tokenizer)
    assert forked.response_start == at
    assert forked.prompt_text == "Question: "
    assert forked.response_text == "5"
    assert forked.roles[at] == "user"


def test_after_the_end(trace, tokenizer, world, llama):
    forked = fork(trace, len(trace), "!", tokenizer)
    assert forked.response_text == trace.response_text + "!"
    assert forked.parent.position == len(trace)
    prompt = engine.encode(engine.Text(prompt="Hi"), llama, world)
    opened = fork(prompt, len(prompt), "!", tokenizer)
    assert opened.roles == ("user", "user", "user", "assistant")
    assert opened.response_start == len(prompt)


def test_the_speaker_at_the_fork_says_the_forced_token(trace, tokenizer):
    n, start = len(trace), trace.response_start
    chat = trace.evolve(
        turns=(
            Turn(role="system", start=0, end=4),
            Turn(role="user", start=4, end=start),
            Turn(role="thinking", start=start, end=start + 5),
            Turn(role="assistant", start=start + 5, end=n),
        )
    )
    for position, role in ((2, "system"), (4, "user"), (start, "thinking"), (n - 2, "assistant")):
        forked = fork(chat, position, "ab", tokenizer)
        assert forked.roles == (*chat.roles[:position], role, role)


def test_spans_somebody_gave_stay_before_the_fork(trace, tokenizer):
    given = trace.evolve(
        spans={"question": Span(start=2, end=5), "mine": Span(start=3, end=AT + 1)}
    )
    spans = fork(given, AT, "7", tokenizer).spans
    assert spans["question"] == Span(start=2, end=5)
    assert "mine" not in spans


def test_a_dummy_space_is_not_put_into_the_middle_of_a_text():
    tokenizer = sentencepiece_like()
    encoded = tokenizer.encode("c", special=True)
    trace = engine.trace_from_ids(encoded.ids, tokenizer, response_start=1)
    for typed in ("a", " a", "ab", " ab b", "x", "é"):
        forked = fork(trace, len(trace), typed, tokenizer)
        assert b"".join(forked.pieces[len(trace) :]) == typed.encode()
        assert tokenizer.decode_bytes(forked.ids[len(trace) :]) == typed.encode()
        assert forked.exact


@pytest.mark.parametrize(
    ("position", "forced", "says"),
    [
        (-1, "7", "Position -1 is outside the text"),
        (10_000, "7", "choose one from 0 to"),
        (0, "7", "in front of every text"),
        (AT, 70_000, "no token 70000"),
        (AT, -1, "no token -1"),
        (AT, "\ud800", "lone surrogate"),
    ],
)
def test_what_cannot_be_forked_says_why(trace, tokenizer, position, forced, says):
    with pytest.raises(UserError, match=says):
        fork(trace, position, forced, tokenizer)


def test_nothing_before_it_and_nothing_forced(trace, tokenizer):
    bare = trace.evolve(added=())
    assert fork(bare, 0, "7", tokenizer).ids == (ord("7"),)
    with pytest.raises(UserError, match="nothing to go on from"):
        fork(bare, 0, "", tokenizer)


def test_a_log_without_ids_or_of_another_tokenizer(trace, tokenizer):
    logged = trace.evolve(ids=(-1,) * len(trace), tokenizer=None)
    with pytest.raises(UserError, match="no token ids"):
        fork(logged, AT, "7", tokenizer)
    with pytest.raises(UserError, match="another tokenizer"):
        fork(trace.evolve(tokenizer="0" * 64), AT, "7", tokenizer)
    unnamed = fork(trace.evolve(tokenizer=None), AT, "7", tokenizer)
    assert unnamed.tokenizer is None


# -- continuing -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grow(world: Workspace, llama: str):
    def grow(tree: Tree, parent: Place, position: int, forced, **params) -> Branch:
        settings = {"n": 2, "max_new_tokens": 4, **params}
        source = trace_at(tree, parent)
        request = continuation(source, position, forced, llama, world, **settings)
        (result,) = engine.run(request, workspace=world)
        stats = Request("statistics", request.subject, llama)
        (read,) = engine.run(stats, workspace=world)
        logprob = forced_logprob(read.tables, position, request.subject.ids[position:])
        return branch_of(tree, parent, position, result, logprob=logprob)

    return grow


@pytest.fixture(scope="module")
def tree(trace: Trace, grow) -> Tree:
    """Two branches from the root, one from the second draw of the first."""
    tree = judged(Tree(root=trace), "8")
    first = grow(tree, ORIGIN, AT, "7")
    tree = add(tree, first)
    tree = add(tree, grow(tree, ORIGIN, AT - 5, "x\nAnswer: 8\n", n=3))
    return add(tree, grow(tree, Place(branch=first.id, sample=1), AT + 2, "!"))


def test_a_branch_holds_whole_traces_that_know_their_parent(tree, trace):
    branch = tree.branches[0]
    assert (branch.position, branch.forced, branch.pieces) == (AT, (ord("7"),), (b"7",))
    assert branch.samples == (0, 1)
    for index, sample in enumerate(branch.traces):
        assert sample.ids[: AT + 1] == (*trace.ids[:AT], ord("7"))
        assert len(sample) <= AT + 5
        assert sample.parent == Parent(digest=trace.digest, position=AT)
        assert sample.response_start == trace.response_start
        assert sample.ids_origin == "generated"
        assert sample.sampling.index == index
        assert sample.spans["question"] == trace.spans["question"]
    assert branch.traces[0].ids != branch.traces[1].ids
    assert branch.sampling.logprobs is None


def test_a_branch_that_repeats_its_parent_differs_later(tree, grow, trace):
    branch = grow(tree, ORIGIN, AT, "8\n", n=1)
    sample = branch.traces[0]
    differ = next(i for i, (a, b) in enumerate(zip(sample.ids, trace.ids, strict=False)) if a != b)
    assert sample.parent == Parent(digest=trace.digest, position=differ)
    assert differ >= AT + 2


def test_the_forced_tokens_log_probability(tree, world, llama, trace):
    (read,) = engine.run(Request("statistics", trace, llama, {"top_k": 300}), workspace=world)
    single = forced_logprob(read.tables, AT, (ord("7"),))
    assert tree.branches[0].logprob == pytest.approx(single, abs=1e-5)
    said = read.table("tokens")["logprob"][AT].as_py()
    assert forced_logprob(read.tables, AT, (ord("8"),)) == pytest.approx(said)
    # One position further it would be another number.
    assert forced_logprob(read.tables, AT + 1, (ord("7"),)) != pytest.approx(single, abs=1e-3)
    several = tree.branches[1]
    (read,) = engine.run(
        Request("statistics", fork(trace, AT - 5, "x\nAnswer: 8\n", Tokenizer.load(llama)), llama),
        workspace=world,
    )
    rows = read.table("tokens")["logprob"].to_pylist()[AT - 5 :]
    assert several.logprob == pytest.approx(sum(rows))
    few = {**read.tables, "alternatives": read.table("alternatives").slice(0, 0)}
    assert forced_logprob(few, AT - 5, (ord("y"),)) is None
    assert forced_logprob(few, AT - 5, (ord("y"), ord("z"))) is None
    assert forced_logprob(few, AT - 5, ()) is None


def test_answers_are_checked_and_counted(tree):
    assert tree.verdict is True
    assert verdict_at(tree, ORIGIN) is True
    said = tree.branches[1]
    assert said.verdicts == (True, True, True)
    assert (said.right, said.checked) == (3, 3)
    assert verdict_at(tree, Place(branch=said.id, sample=2)) is True
    other = judged(tree, "9")
    assert other.branches[1].verdicts == (False, False, False)
    assert other.verdict is False
    unchecked = judged(tree, "  ")
    assert unchecked.expected is None
    assert unchecked.verdict is None
    assert {v for b in unchecked.branches for v in b.verdicts} == {None}
    assert judged(unchecked, "8") == tree


def test_asking_for_more_adds_and_changes_none(tree, grow):
    first = tree.branches[0]
    more = add(tree, grow(tree, ORIGIN, AT, "7", n=5))
    assert len(more.branches) == len(tree.branches)
    joined = more.branches[0]
    assert joined.id == first.id
    assert joined.samples == (0, 1, 2, 3, 4)
    assert joined.traces[:2] == first.traces
    assert len(joined.verdicts) == 5
    assert add(more, first) == more
    assert grow(tree, ORIGIN, AT, "7", temperature=0.5).id != first.id
    assert grow(tree, ORIGIN, AT, "7", seed=1).id != first.id


def test_asking_for_longer_ones_goes_on_where_they_were_cut_off(tree, grow):
    first = tree.branches[0]
    longer = grow(tree, ORIGIN, AT, "7", max_new_tokens=9)
    assert longer.id == first.id
    joined = add(tree, longer)
    for cut, whole in zip(first.traces, joined.branches[0].traces, strict=True):
        assert whole.ids[: len(cut)] == cut.ids
        assert len(whole) > len(cut)
    assert joined.branches[0].sampling.max_new_tokens == 9
    assert joined.branches[2] == tree.branches[2]
    assert add(joined, first) == joined


def test_draws_keep_their_numbers_when_some_are_missing(tree):
    first = tree.branches[0]
    late = first.evolve(traces=first.traces[1:], verdicts=first.verdicts[1:])
    assert late.samples == (1,)
    assert late.at(1) == first.traces[1]
    with pytest.raises(UserError, match="no continuation 0"):
        late.at(0)
    alone = tree.evolve(branches=(late, *tree.branches[1:]))
    assert add(alone, first) == tree


def test_walking(tree):
    first, second, deep = tree.branches
    assert children(tree, ORIGIN) == (second, first)  # by position
    assert [(d, b.id) for d, b in walk(tree)] == [(1, second.id), (1, first.id), (2, deep.id)]
    place = Place(branch=deep.id, sample=0)
    assert path(tree, place) == (first, deep)
    assert path(tree, ORIGIN) == ()
    assert trace_at(tree, place).ids[: AT + 2] == first.traces[1].ids[: AT + 2]
    assert trace_at(tree, place).parent.digest == first.traces[1].digest
    assert trace_at(tree, ORIGIN) is tree.root
    assert len(places(tree)) == 1 + 3 + 2 + 2
    with pytest.raises(UserError, match="no branch"):
        trace_at(tree, Place(branch="elsewhere"))


def test_removing_takes_what_grew_from_it(tree):
    first, second, _ = tree.branches
    assert remove(tree, first.id).branches == (second,)
    assert remove(tree, second.id).branches == (first, tree.branches[2])
    assert remove(tree, "elsewhere") == tree


def test_a_branch_needs_its_parent(tree):
    with pytest.raises(UserError, match="not in the tree"):
        add(Tree(root=tree.root), tree.branches[2])


def test_a_stored_trace_becomes_a_branch(tree, trace):
    stored = tree.branches[0].traces[0]
    branch = branch_of_trace(judged(Tree(root=trace), "8"), stored)
    assert (branch.position, branch.forced, branch.logprob) == (AT, (ord("7"),), None)
    assert branch.traces == (stored,)
    with pytest.raises(UserError, match="did not branch"):
        branch_of_trace(Tree(root=stored), stored)
    with pytest.raises(UserError, match="did not branch"):
        branch_of_trace(Tree(root=trace), trace)


def test_nothing_drawn(tree, world, llama, trace):
    request = continuation(trace, AT, "7", llama, world, n=1, max_new_tokens=1)
    (result,) = engine.run(request, workspace=world)
    tables = {**result.tables, "samples": result.table("samples").slice(0, 0)}
    empty = type(result)(**{**result.__dict__, "tables": tables})
    with pytest.raises(UserError, match="Nothing was drawn"):
        branch_of(tree, ORIGIN, AT, empty)


def test_a_full_context_is_refused(world, llama, tokenizer):
    ids = [BOS] + [65] * 254
    full = engine.trace_from_ids(ids, tokenizer, response_start=1)
    request = continuation(full, 255, "a", llama, world)
    with pytest.raises(UserError, match="context"):
        engine.run(request, workspace=world)


# -- files ------------------------------------------------------------------------------------


def test_a_tree_survives_a_file(tree):
    data = dumps(tree)
    assert loads(data) == tree
    assert dumps(loads(data)) == data
    assert orjson.loads(data)["schema"] == "tokenscope.branches/1"


def test_a_branch_as_rollouts(tree, tmp_path: Path):
    group = group_of(tree, tree.branches[1].id)
    assert group.rewards == (1.0, 1.0, 1.0)
    assert group.expected == "8"
    engine.write_rollouts(tmp_path / "g.jsonl", [group])
    assert engine.open_rollouts(tmp_path / "g.jsonl").count == 3


def spoil(tree: Tree, change) -> bytes:
    record = orjson.loads(dumps(tree))
    change(record)
    return orjson.dumps(record)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["branches"].reverse(),
        lambda r: r["branches"].append(r["branches"][0]),
        lambda r: r["branches"][0].update(id="0" * 12),
        lambda r: r["branches"][0].update(position=10**6),
        lambda r: r["branches"][0].update(forced=[1]),
        lambda r: r["branches"][0].update(verdicts=[True]),
        lambda r: r["branches"][0].update(traces=[]),
        lambda r: r["branches"][0]["traces"].reverse(),
        lambda r: r["branches"][0].update(logprob=1.0),
        lambda r: r.update(root={}),
        lambda r: r.update(more=1),
    ],
)
def test_a_tree_that_does_not_hold_together_is_refused(tree, change):
    with pytest.raises(UserError) as error:
        loads(spoil(tree, change))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"schema": "other"}', b"\xff\xfe", b"[" * 100_000]
)
def test_what_is_no_tree_is_refused(data):
    with pytest.raises(UserError):
        loads(data)


def test_a_huge_file_is_refused_unread():
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_BYTES + 1

    with pytest.raises(UserError, match="bytes"):
        loads(Huge())


def test_sampling_of_a_branch_names_no_single_draw(trace):
    branch = Branch(
        position=AT,
        forced=(),
        sampling=Sampling(index=3, finish="stop", temperature=0.5),
        traces=(trace,),
    )
    assert branch.sampling == Sampling(temperature=0.5)
    assert branch.verdicts == (None,)
    assert branch.logprob is None
