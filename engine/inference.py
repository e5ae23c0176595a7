"""The language model that evaluators ask, on transformers.

All continuations of a prompt are scored in **one** pass: the sequence holds the prompt once and the continuations side
by side behind it, under an attention mask in which each continuation sees the prompt and itself (the tree attention of
SpecInfer, arXiv 2305.09781). A four-option question so costs one prefill instead of four.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evaluators._types import Request, Score

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class _Encoded:
    """A request in token ids, with its place in the caller's order."""

    index: int
    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def tail(self) -> int:
        return sum(len(ids) for ids in self.continuations)


class TransformersModel:
    """A causal language model and its tokenizer, asked for log-probabilities.

    Batches are formed once by length for a given list of requests and reused for every candidate of a search.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: bool = True,
        tokens_per_batch: int = _TOKENS_PER_BATCH,
    ) -> None:
        self.model = model
        self.model.train(mode=False)
        self.tokenizer = tokenizer
        self._chat_template = chat_template and tokenizer.chat_template is not None
        self._tokens_per_batch = tokens_per_batch
        self._batches: dict[tuple[Request, ...], tuple[tuple[_Encoded, ...], ...]] = {}

    def render(self, question: str) -> str:
        """Write one user turn by the model's chat template; without one, the question and a line break."""
        if not self._chat_template:
            return question + "\n"
        turn = [{"role": "user", "content": question}]
        return str(self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))

    def score(self, requests: Sequence[Request]) -> list[tuple[Score, ...]]:
        """Score every continuation of every request, in the order given.

        Returns:
            One tuple of scores a request. Log-probabilities are computed in float32 whatever the model's dtype.

        Raises:
            ValueError: A prompt or a continuation that is empty once tokenised.
        """
        results: dict[int, tuple[Score, ...]] = {}
        for batch in self._batched(tuple(requests)):
            results.update(self._score_batch(batch))
        return [results[index] for index in range(len(requests))]

    def single_tokens(self, request: Request) -> bool:
        """Tell whether every continuation is exactly one token after the prompt."""
        return all(len(ids) == 1 for ids in self._encode(0, request).continuations)

    def _batched(self, requests: tuple[Request, ...]) -> tuple[tuple[_Encoded, ...], ...]:
        if requests not in self._batches:
            encoded = [self._encode(index, request) for index, request in enumerate(requests)]
            self._batches[requests] = tuple(_by_length(encoded, self._tokens_per_batch))
        return self._batches[requests]

    def _encode(self, index: int, request: Request) -> _Encoded:
        prompt = self._ids(request.prompt)
        continuations = tuple(self._continuation(prompt, request.prompt, text) for text in request.continuations)
        if not prompt or not all(continuations):
            raise ValueError(f"nothing is left of a prompt or an option once tokenised: {request!r}")
        return _Encoded(index, prompt, continuations)

    def _continuation(self, prompt: tuple[int, ...], text: str, continuation: str) -> tuple[int, ...]:
        whole = self._ids(text + continuation)
        # Where the border merges into one token the continuation is encoded alone, so that all share one prompt.
        return whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._ids(continuation, alone=True)

    def _ids(self, text: str, *, alone: bool = False) -> tuple[int, ...]:
        # A chat template writes its own special tokens.
        special = not alone and not self._chat_template
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    @torch.inference_mode()
    def _score_batch(self, batch: tuple[_Encoded, ...]) -> Iterator[tuple[int, tuple[Score, ...]]]:
        inputs, tail = _layout(batch, self.model)
        # Prompts end in the same column, so the columns that predict options are the last ones of every row.
        logits = self.model(**inputs, use_cache=False, logits_to_keep=tail + 1).logits
        for row, encoded in enumerate(batch):
            yield encoded.index, tuple(_continuation_scores(logits[row], encoded))


def load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Open a checkpoint folder as a causal language model on the best device there is; no remote code, no pickle."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return _placed(model)


def skeleton(config: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """Make a model of a config.json whose weights are still to be written; no file is read, no remote code.

    Args:
        config: The content of a config.json.
        dtype: Of the parameters.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    settings = {name: value for name, value in config.items() if name not in ("model_type", "auto_map")}
    with no_init_weights():
        whole = AutoConfig.for_model(config["model_type"], **settings)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(whole, dtype=dtype)  # type: ignore[no-untyped-call]
    model.tie_weights()
    model.train(mode=False)
    return _placed(model)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a checkpoint folder; no remote code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _placed(model: PreTrainedModel) -> PreTrainedModel:
    # Of torch, in place: the method of the same name that transformers wraps around it has lost its types.
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    return model


def _by_length(encoded: list[_Encoded], budget: int) -> Iterator[tuple[_Encoded, ...]]:
    """Group requests of similar length so that padding is little and a batch's cells stay within the budget."""
    batch: list[_Encoded] = []
    for one in sorted(encoded, key=lambda each: (len(each.prompt) + each.tail, each.index)):
        longest = max((len(each.prompt) for each in [*batch, one]), default=0)
        tail = max((each.tail for each in [*batch, one]), default=0)
        if batch and (longest + tail) * (len(batch) + 1) > budget:
            yield tuple(batch)
            batch = []
        batch.append(one)
    if batch:
        yield tuple(batch)


def _layout(batch: tuple[_Encoded, ...], model: PreTrainedModel) -> tuple[dict[str, Any], int]:
    """Lay a batch out as (ids, positions, additive mask [rows, 1, length, length]); prompts are padded on the left."""
    head = max(len(each.prompt) for each in batch)
    tail = max(each.tail for each in batch)
    ids = torch.zeros(len(batch), head + tail, dtype=torch.long)
    positions = torch.zeros_like(ids)
    seen = torch.zeros(len(batch), 1, head + tail, head + tail, dtype=torch.bool)
    for row, each in enumerate(batch):
        start = head - len(each.prompt)
        ids[row, start:head] = torch.tensor(each.prompt)
        positions[row, start:head] = torch.arange(len(each.prompt))
        seen[row, 0, start:head, start:head] = _causal(len(each.prompt))
        column = head
        for continuation in each.continuations:
            end = column + len(continuation)
            ids[row, column:end] = torch.tensor(continuation)
            positions[row, column:end] = torch.arange(len(each.prompt), len(each.prompt) + len(continuation))
            seen[row, 0, column:end, start:head] = True
            seen[row, 0, column:end, column:end] = _causal(len(continuation))
            column = end
    window = getattr(model.config, "sliding_window", None)
    if window is not None:  # a mask that is given stands in for the model's own, window and all
        seen &= (positions[:, None, :, None] - positions[:, None, None, :]) < window
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(~seen, torch.finfo(model.dtype).min)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": mask}
    return {name: tensor.to(model.device) for name, tensor in inputs.items()}, tail


def _causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def _continuation_scores(logits: Tensor, encoded: _Encoded) -> Iterator[Score]:
    """Read the scores of one row; logits are [1 + tail, vocabulary], the first row being the prompt's last token."""
    column = 1
    for continuation in encoded.continuations:
        length = len(continuation)
        rows = [0, *range(column, column + length - 1)]
        chosen = torch.log_softmax(logits[rows].float(), dim=-1)[range(length), list(continuation)]
        yield Score(float(chosen.double().sum()), length)
        column += length
