"""The one-pass scores against brute force: one forward a continuation, the whole sequence, transformers' own mask."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from engine import inference
from engine.inference import TransformersModel
from evaluators._multiple_choice import score_items
from evaluators._types import Item, ItemError, LanguageModel, Request, Score
from tests.tiny import tiny_model

ENGLISH = "A patient with fever and cough comes to the hospital. Which treatment is the most appropriate?"
JAPANESE = "患者は発熱と咳を訴えて来院した。最も適切な治療はどれか。"
OPTIONS = ("A", "B", "beta-lactam", "肺炎の診断には胸部エックス線検査が有用である。", "antibiotics", "尺骨神経")
KINDS = {
    "llama": {"architecture": "llama"},
    "tied": {"architecture": "llama", "tie_word_embeddings": True},
    "qwen2": {"architecture": "qwen2"},
    "mistral": {"architecture": "mistral"},
    "window": {"architecture": "mistral", "sliding_window": 16},
}


def requests() -> list[Request]:
    """Give prompts of 1 to about 100 tokens in both languages, each with one to six options of 1 to 40 tokens."""
    found: list[Request] = []
    for place, (text, share) in enumerate(product((ENGLISH, JAPANESE), (0.02, 0.1, 0.3, 0.55, 0.8, 1.0))):
        prompt = text[: max(1, round(len(text) * share))]
        rotated = OPTIONS[place % 6 :] + OPTIONS[: place % 6]
        found.append(Request(prompt, rotated[: 1 + place % 6]))
    return found


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(
        tmp_path_factory.mktemp(request.param), seed=3, layers=2, initializer_range=0.3, **KINDS[request.param]
    )


@pytest.fixture(scope="module")
def asked(folder: Path) -> TransformersModel:
    model = inference.load(folder, torch.float32)
    return TransformersModel(model, inference.load_tokenizer(folder), chat_template=False)


def ids_of(tokenizer: PreTrainedTokenizerBase, request: Request, option: str) -> tuple[list[int], list[int]]:
    prompt = tokenizer(request.prompt)["input_ids"]
    whole = tokenizer(request.prompt + option)["input_ids"]
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    return prompt, tokenizer(option, add_special_tokens=False)["input_ids"]


def brute_force(folder: Path, wanted: list[Request]) -> list[tuple[Score, ...]]:
    """Score every option alone, by teacher forcing with labels: transformers shifts, masks and sums."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def score(request: Request, option: str) -> Score:
        prompt, ids = ids_of(tokenizer, request, option)
        whole = torch.tensor([prompt + ids])
        labels = torch.tensor([[-100] * len(prompt) + ids])
        with torch.inference_mode():
            output = model(input_ids=whole, labels=labels)
        logprobs = output.logits[0, :-1].float().log_softmax(-1)[range(whole.shape[1] - 1), whole[0, 1:]]
        total = float(logprobs[len(prompt) - 1 :].double().sum())
        assert float(output.loss) * len(ids) == pytest.approx(-total, rel=1e-5)
        return Score(total, len(ids))

    return [tuple(score(request, option) for option in request.continuations) for request in wanted]


def assert_close(found: list[tuple[Score, ...]], expected: list[tuple[Score, ...]]) -> None:
    assert [[one.tokens for one in each] for each in found] == [[one.tokens for one in each] for each in expected]
    for each, other in zip(found, expected, strict=True):
        assert [one.logprob for one in each] == pytest.approx([one.logprob for one in other], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("budget", [1, 64, 300, 100_000])
def test_one_pass_gives_the_scores_of_one_forward_an_option(
    folder: Path, asked: TransformersModel, budget: int
) -> None:
    wanted = requests()
    model = TransformersModel(asked.model, asked.tokenizer, chat_template=False, tokens_per_batch=budget)
    assert_close(model.score(wanted), brute_force(folder, wanted))


def test_a_request_alone_has_the_scores_that_it_has_among_others(asked: TransformersModel) -> None:
    wanted = requests()
    together = asked.score(wanted)
    assert_close([asked.score([request])[0] for request in wanted], together)
    assert_close(asked.score(wanted[::-1]), together[::-1])


def test_options_do_not_see_one_another(asked: TransformersModel) -> None:
    (first, *_), (alone,) = asked.score([Request(JAPANESE, OPTIONS), Request(JAPANESE, OPTIONS[:1])])
    assert first.logprob == pytest.approx(alone.logprob, abs=1e-5)
    (before,) = asked.score([Request(JAPANESE, ("尺骨神経", *OPTIONS))])
    assert before[1].logprob == pytest.approx(first.logprob, abs=1e-5)


def test_chat_prompts_end_where_the_answer_begins(folder: Path, asked: TransformersModel) -> None:
    model = TransformersModel(asked.model, asked.tokenizer)
    rendered = model.render(JAPANESE)
    assert rendered == f"<|im_start|>user\n{JAPANESE}<|im_end|>\n<|im_start|>assistant\n"
    wanted = [Request(rendered, OPTIONS), Request(model.render(ENGLISH), OPTIONS[:4])]
    assert_close(model.score(wanted), brute_force(folder, wanted))


def test_without_a_chat_template_the_question_ends_with_a_line_break(asked: TransformersModel) -> None:
    assert asked.render("どれか。") == "どれか。\n"


def test_a_half_precision_model_is_scored_in_float32(folder: Path, asked: TransformersModel) -> None:
    half = TransformersModel(inference.load(folder, torch.bfloat16), asked.tokenizer, chat_template=False)
    for each, other in zip(half.score(requests()), asked.score(requests()), strict=True):
        assert [one.logprob for one in each] == pytest.approx([one.logprob for one in other], rel=0.05)
        # A log-softmax in bfloat16 could hold these to three digits at best.
        assert any(float(torch.tensor(one.logprob).bfloat16()) != one.logprob for one in each)


def item(letters: str) -> Item:
    return Item("i", "どれか。", {letter: f"text {letter}" for letter in letters}, (letters[0],), "ja", "i")


def test_letters_of_several_tokens_fail_loudly(asked: TransformersModel) -> None:
    model: LanguageModel = asked
    score_items(model, [item("ABCD")], scoring="letter")
    with pytest.raises(ItemError, match="the letters ア, イ are not one token each for this tokenizer"):
        score_items(model, [item("アイ")], scoring="letter")
    score_items(model, [item("アイ")], scoring="option_text")


def test_letters_that_melt_into_the_prompt_are_scored_behind_it(folder: Path, asked: TransformersModel) -> None:
    # "The answer is A" is in the tokenizer's training text: some prompt and letter share a token there.
    tokenizer = asked.tokenizer
    merged = [text for text in ("hospital", "fever", "treatment", "antibiotics") if _melts(tokenizer, text)]
    assert merged
    wanted = [Request(text[:-1], (text[-1], "B")) for text in merged]
    assert_close(asked.score(wanted), brute_force(folder, wanted))


def _melts(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    before = tokenizer(text[:-1])["input_ids"]
    return bool(tokenizer(text)["input_ids"][: len(before)] != before)


@pytest.mark.parametrize("request_", [Request("", ("A",)), Request("x", ("A", ""))])
def test_nothing_to_score_is_refused(asked: TransformersModel, request_: Request) -> None:
    with pytest.raises(ValueError, match="nothing is left of a prompt or an option"):
        asked.score([request_])


def test_a_skeleton_with_the_weights_copied_in_is_the_model(folder: Path, asked: TransformersModel) -> None:
    skeleton = inference.skeleton(asked.model.config.to_dict(), torch.float32)
    with torch.no_grad():
        live = skeleton.state_dict(keep_vars=True)
        for name, tensor in asked.model.state_dict().items():
            live[name].copy_(tensor)
    model = TransformersModel(skeleton, asked.tokenizer, chat_template=False)
    assert model.score(requests()) == asked.score(requests())
