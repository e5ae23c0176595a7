"""`sft`: supervised fine-tuning of a LoRA adapter by TRL's SFTTrainer, resumable.

The trainer is fed token ids and labels of our own: the loss falls on the assistant's turns alone, found by rendering
prefixes of the conversation, whatever the chat template. The base is trained in float32 under bfloat16 autocast, and
the adapter stays in float32: in bfloat16 small updates are lost.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import inference
from engine.errors import StageError
from engine.events import Emit, Event
from engine.stages import Work

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.trainer_callback import TrainerCallback

_IGNORED = -100
_MARKER = "complete.json"


def run(work: Work) -> None:
    """Train the adapter and write it in PEFT's format.

    Raises:
        StageError: Rows that the chat template cannot render, or a loss that is not finite.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed

    training = work.spec["training"]
    tokenizer = inference.load_tokenizer(work.inputs["base"])
    rows = (work.inputs["data"] / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    encoded = _taught(rows, tokenizer, training["max_length"], work.emit)
    tokens = sum(len(row["input_ids"]) for row in encoded)
    work.emit(Event("message", data={"text": f"{len(encoded)} rows, {tokens} tokens an epoch"}))

    set_seed(work.seed)
    model = inference.load(work.inputs["base"], dtype=torch.float32)
    lora = {**work.spec["lora"], "task_type": "CAUSAL_LM"}
    trainer = _trainer_class()(
        model=model,
        args=_arguments(training, work),
        train_dataset=Dataset.from_list(encoded),
        processing_class=tokenizer,
        peft_config=LoraConfig(**lora),
        callbacks=[_reporter(work.emit)],
    )
    # The bar of transformers would draw over ours.
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for theirs in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(theirs)
    newest = _newest_complete(work.scratch, work.emit)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    _check_finite(trainer.model)
    trainer.model.save_pretrained(work.output)
    _forget_paths(work.output)


def _taught(
    rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, emit: Emit
) -> list[dict[str, list[int]]]:
    """Encode the rows, without those whose answer begins behind `max_length`: they would teach nothing."""
    encoded = [encode(json.loads(row)["messages"], tokenizer, max_length) for row in rows]
    kept = [row for row in encoded if any(label != _IGNORED for label in row["labels"])]
    if not kept:
        raise StageError(f"No answer begins within {max_length} tokens.", hint="Raise training.max_length.")
    if len(kept) < len(encoded):
        left_out = f"{len(encoded) - len(kept)} rows are left out: their answers begin behind {max_length} tokens."
        emit(Event("warning", data={"message": left_out}))
    return kept


def encode(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[int]]:
    """Render a conversation as token ids, and labels that are ignored outside the assistant's turns.

    Raises:
        StageError: A template whose prefixes do not agree, so that the mask cannot be found.
    """
    ids = _render(messages, tokenizer)
    labels = [_IGNORED] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = _render(messages[:turn], tokenizer, prompt=True)
        end = _render(messages[: turn + 1], tokenizer)
        if ids[: len(start)] != start or ids[: len(end)] != end:
            raise StageError(
                "The chat template renders the beginning of a conversation differently once it goes on, so the "
                "assistant's turns cannot be told apart.",
                hint="Train on single-turn rows with this template.",
            )
        labels[len(start) : len(end)] = ids[len(start) : len(end)]
    return {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def _render(
    messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False
) -> list[int]:
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise StageError("The base model has no chat template.", hint="Start from an instruction-tuned model.")
    turns = [dict(one) for one in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except TemplateError as error:
        roles = ", ".join(one["role"] for one in turns)
        raise StageError(
            f"The chat template of the base model refuses a row with the turns {roles}: {error}",
            hint="Write the rows as its template wants them, without a system's turn for example.",
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _arguments(training: Mapping[str, Any], work: Work) -> Any:  # noqa: ANN401 - TRL is untyped
    import torch
    from trl import SFTConfig

    settings = {name: value for name, value in training.items() if name not in ("dtype", "gradient_checkpointing")}
    on_cpu = not torch.cuda.is_available()
    return SFTConfig(
        **settings,
        activation_checkpointing=training["gradient_checkpointing"],
        output_dir=str(work.scratch),
        seed=work.seed,
        data_seed=work.seed,
        use_cpu=on_cpu,
        bf16=training["dtype"] == "bfloat16",
        fp16=training["dtype"] == "float16",
        dataset_kwargs={"skip_prepare_dataset": not training["packing"]},
        dataloader_pin_memory=not on_cpu,
        save_total_limit=2,
        disable_tqdm=True,
        report_to=[],
    )


class RowOrder:
    """The order in which rows are trained on: drawn anew in every epoch, rows of similar length together.

    It follows from the seed and the number of the epoch alone. The library's own sampler draws from the state of a
    generator, which a run that resumes in its second epoch does not have: it would go on with other rows.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = list(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Turn to an epoch, counted from 0; accelerate calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = get_length_grouped_indices(self._lengths, self._batch_size, generator=draw)  # type: ignore[no-untyped-call]
        yield from order


def _trainer_class() -> Any:  # noqa: ANN401 - TRL is untyped
    """Give SFTTrainer with rows in our order, and a loss that projects only the columns that are trained on.

    TRL's own loss also computes entropies over the vocabulary, in tiles that take half of a step on a CPU.
    """
    from torch.nn import functional
    from trl import SFTTrainer

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:  # noqa: ANN401
            rows = self.train_dataset if train_dataset is None else train_dataset
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return RowOrder([len(ids) for ids in rows["input_ids"]], batch, self.args.data_seed)

        def compute_loss(
            self,
            model: Any,  # noqa: ANN401
            inputs: dict[str, Any],
            return_outputs: bool = False,  # noqa: FBT001, FBT002 - the signature is the library's
            num_items_in_batch: Any = None,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            labels = inputs.pop("labels")[:, 1:]
            columns = (labels != _IGNORED).any(0).nonzero().squeeze(1)
            outputs = model(**inputs, use_cache=False, logits_to_keep=columns)
            chosen = labels[:, columns]
            total = functional.cross_entropy(
                outputs.logits.float().flatten(0, 1), chosen.flatten(), ignore_index=_IGNORED, reduction="sum"
            )
            count = (chosen != _IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = total / count
            return (loss, outputs) if return_outputs else loss

    return AnswerTrainer


def _reporter(emit: Emit) -> TrainerCallback:
    """Turn the trainer's callbacks into events, and mark each checkpoint once it is whole."""
    from transformers.trainer_callback import TrainerCallback

    class Reporter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            emit(Event("progress", data={"done": state.global_step, "total": state.max_steps, "unit": "steps"}))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            if logs and "loss" in logs:
                emit(Event("loss", data={"step": state.global_step, "loss": float(logs["loss"])}))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
            _mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Reporter()


def _mark_complete(folder: Path) -> None:
    """List a checkpoint's files with their sizes: the trainer does not write checkpoints in one step."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != _MARKER}
    temporary = folder / f".{_MARKER}"
    temporary.write_text(json.dumps(sizes))
    temporary.replace(folder / _MARKER)


def _newest_complete(scratch: Path, emit: Emit) -> Path | None:
    """Find the newest checkpoint that is whole, and clear away those that are not."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        if _is_complete(folder):
            emit(Event("message", data={"text": f"Going on from {folder.name}"}))
            return folder
        emit(Event("warning", data={"message": f"{folder.name} was cut off while it was written; it is not used."}))
        shutil.rmtree(folder)
    return None


def _is_complete(folder: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _check_finite(model: Any) -> None:  # noqa: ANN401 - a PEFT model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise StageError(
                f"The training diverged: {name} is not finite.",
                hint="Lower training.learning_rate, or add warmup_steps.",
            )


def _forget_paths(folder: Path) -> None:
    """Keep what loads the adapter; the library's card and the path of the base are of this machine."""
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    # PEFT lists modules in the order of a set, which differs from run to run.
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
