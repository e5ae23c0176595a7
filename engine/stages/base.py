"""`base`: a GGUF file becomes a bfloat16 checkpoint with its tokenizer, once."""

from __future__ import annotations

from pathlib import Path

from engine.errors import StageError
from engine.events import Event
from engine.stages import Work


def run(work: Work) -> None:
    """Convert the file.

    Raises:
        StageError: transformers cannot read the file; its words are in the message.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = Path(work.files["gguf"])
    work.emit(Event("message", data={"text": f"Converting {file.name} to bfloat16 safetensors …"}))
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.bfloat16,
            local_files_only=True,
            # Without this the weights come out dense all the same, but cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
        )
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise StageError(
            f"{file} cannot be converted: {error}", hint="Use a Llama, Mistral or Qwen2 GGUF, or a safetensors folder."
        ) from error
    # The name inside the file is of no use to anyone, and the path is nobody's business.
    model.config._name_or_path = ""  # noqa: SLF001 - transformers has no other way
    model.save_pretrained(work.output)
    tokenizer.save_pretrained(work.output)
