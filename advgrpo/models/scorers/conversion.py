"""Conversion of published pickles to the safetensors folders that scorers read.

The only module that opens pickles, and only with `weights_only=True`, which refuses every class but
tensors and plain containers.
"""

import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from advgrpo.config.base import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.scorers.aesthetic import build_predictor
from advgrpo.storage.fetch import local_folder

_WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # The misspelling is that of transformers.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}

# open_clip multiplies by these from the right; a linear layer stores the transpose.
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}

_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")

_IGNORED = {"attn_mask"}
"""Buffers that `CLIPModel` computes."""

_COPIED = ("*.json", "*.txt")


def convert_hps(checkpoint: Path, base: Weights, output: Path) -> None:
    """Write HPS v2.1 in the layout of the transformers library.

    Args:
        checkpoint: The published file, for instance `HPS_v2.1_compressed.pt`, in the layout of
            open_clip.
        base: The CLIP that it was fine-tuned from, whose configuration, tokenizer and preprocessing
            it uses: `hub://laion/CLIP-ViT-H-14-laion2B-s32B-b79K` at a commit, or a copy.
        output: Folder for `model.safetensors`, configuration and tokenizer.

    Raises:
        WeightsError: If the file is not such a checkpoint, or base has another shape.
    """
    state = _read_pickle(checkpoint)
    folder = local_folder(base)
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{base.location} has no config.json", repair="set --base to LAION's CLIP ViT-H/14"
        )
    try:
        tensors = clip_from_open_clip(state)
        # By shapes before anything is written: a base of another size would fail only on loading.
        wanted = _shapes(CLIPConfig.from_pretrained(folder))
        _check_shapes(tensors, wanted)
    except ValueError as error:
        raise WeightsError(
            f"{checkpoint} is not a fine-tuned {base.location}: {error}",
            repair="set --checkpoint to HPS_v2.1_compressed.pt and --base to LAION's CLIP ViT-H/14",
        ) from error
    output.mkdir(parents=True, exist_ok=True)
    for pattern in _COPIED:
        for file in folder.glob(pattern):
            # An index of sharded weights would refer to files that are not copied.
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, output / file.name)
    # transformers refuses safetensors files without this metadata.
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})


def convert_aesthetic(checkpoint: Path, output: Path) -> None:
    """Write LAION's aesthetic predictor as safetensors.

    Args:
        checkpoint: The published file, for instance `sac+logos+ava1-l14-linearMSE.pth`.
        output: Folder for `model.safetensors`.

    Raises:
        WeightsError: If the file is not such a predictor.
    """
    state = _read_pickle(checkpoint)
    try:
        # Built only for its checks of names, shapes and values.
        build_predictor(state)
    except ValueError as error:
        raise WeightsError(
            f"{checkpoint} is not an aesthetic predictor: {error}",
            repair="set --checkpoint to sac+logos+ava1-l14-linearMSE.pth",
        ) from error
    output.mkdir(parents=True, exist_ok=True)
    # Published names are kept, which `load_predictor` expects.
    tensors = {name: tensor.float().contiguous() for name, tensor in state.items()}
    save_file(tensors, output / "model.safetensors")


def clip_from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an open_clip model to those of `CLIPModel`, in float32.

    Raises:
        ValueError: If a tensor is unknown.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in _IGNORED:
            continue
        for new_name, part in _rename(name, tensor.float()).items():
            # save_file refuses tensors that share memory, as the chunks of one matrix do.
            tensors[new_name] = part.contiguous().clone()
    return tensors


def _rename(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name in _WHOLE:
        return {_WHOLE[name]: tensor}
    if name in _TRANSPOSED:
        return {_TRANSPOSED[name]: tensor.T}
    # Separators differ: `attn.in_proj_weight`, but `attn.out_proj.weight`.
    block = _BLOCK.fullmatch(name)
    if block is None:
        raise ValueError(f"tensor {name!r} is unknown")
    visual, number, part, kind = block.groups()
    prefix = f"{'vision' if visual else 'text'}_model.encoder.layers.{number}"
    if part == "attn.in_proj":
        # open_clip stores query, key and value in one matrix.
        parts = zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True)
        return {f"{prefix}.self_attn.{name}.{kind}": value for name, value in parts}
    if part not in _IN_BLOCK:
        raise ValueError(f"tensor {name!r} is unknown")
    return {f"{prefix}.{_IN_BLOCK[part]}.{kind}": tensor}


def _shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    # Shapes only: the parameters of a ViT-H are not allocated.
    with torch.device("meta"):
        model = CLIPModel(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _check_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    if other := sorted(set(tensors) ^ set(wanted)):
        raise ValueError(f"{other[0]} is {'missing' if other[0] in wanted else 'unknown'}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, not {wanted[name]}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # On the CPU, because a pickle names the device that it was saved from.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} does not exist", repair="set --checkpoint to an existing file"
        ) from error
    # torch raises it for classes that `weights_only` refuses.
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or contains objects other than tensors, which could run code",
            repair="download the file from its publisher, and compare its hash",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", repair="download it again") from error
    # HPS is a training checkpoint with the weights under `state_dict`; the predictor is a bare
    # state dict.
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise WeightsError(
            f"{path} is not a mapping of tensors", repair="download it from its publisher"
        )
    # DataParallel adds the prefix.
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
