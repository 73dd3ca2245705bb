"""The published layout is built from torch's own layers, so that features can be compared."""

from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.scorers.aesthetic import load_predictor
from advgrpo.models.scorers.conversion import convert_aesthetic, convert_hps
from tests.models.scorers.conftest import EMBEDDING, SIDE, WIDTH
from tests.models.scorers.test_aesthetic import published_network, published_tensors

CPU = torch.device("cpu")
HEADS, PATCH, TOKENS = 2, 4, 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(WIDTH, 2 * WIDTH), "c_proj": nn.Linear(2 * WIDTH, WIDTH)}
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        hidden = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)))
        return x + self.mlp["c_proj"](hidden)


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBEDDING))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Tower()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, WIDTH)
        tokens = torch.cat([first, patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(tokens))[:, 0]) @ self.proj


class Published(nn.Module):
    """CLIP as its first publication and HPS lay it out."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBEDDING))
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.visual = Visual()
        self.transformer = Tower()
        self.token_embedding = nn.Embedding(vocabulary, WIDTH)
        self.ln_final = nn.LayerNorm(WIDTH)

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1]
        mask = torch.full((count, count), -torch.inf).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding[:count]
        return self.ln_final(self.transformer(x, mask))[:, -1] @ self.text_projection


def flat(options: dict[str, Path]) -> list[str]:
    return [str(part) for option in options.items() for part in option]


@pytest.fixture
def published(clip_folder: Path) -> Published:
    from transformers import CLIPConfig

    vocabulary = CLIPConfig.from_pretrained(clip_folder).text_config.vocab_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Published(vocabulary).eval()


@pytest.fixture
def checkpoint(published: Published, tmp_path: Path) -> Path:
    path = tmp_path / "HPS.pt"
    torch.save({"epoch": 3, "state_dict": published.state_dict()}, path)
    return path


@torch.no_grad()
def test_a_converted_checkpoint_gives_the_embeddings_of_the_published_one(
    published: Published,
    checkpoint: Path,
    clip_folder: Path,
    images: torch.Tensor,
    tmp_path: Path,
) -> None:
    from transformers import CLIPTokenizer

    prompt = "a small red circle"
    convert_hps(checkpoint, Weights(location=str(clip_folder)), tmp_path / "hps")

    clip = ClipBackbone(Weights(location=str(tmp_path / "hps")), CPU)
    normalize = torch.nn.functional.normalize
    seen = normalize(published.visual(images), dim=-1)
    torch.testing.assert_close(clip.image_features(images), seen, atol=1e-5, rtol=0)
    tokens = CLIPTokenizer.from_pretrained(clip_folder)([prompt], return_tensors="pt")["input_ids"]
    read = normalize(published.text(tokens), dim=-1)
    torch.testing.assert_close(clip.text_features([prompt]), read, atol=1e-5, rtol=0)
    assert clip.logit_scale == pytest.approx(torch.tensor(3.0).exp().item())


def test_no_pickle_and_no_weights_of_the_base_are_left_in_the_folder(
    checkpoint: Path, clip_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "hps"
    options = {"--checkpoint": checkpoint, "--base": clip_folder, "--output": output}
    result = CliRunner().invoke(app, ["scorers", "convert-hps", *flat(options)])

    assert result.exit_code == 0, result.output
    weights = [path.name for path in output.iterdir() if path.suffix not in {".json", ".txt"}]
    assert weights == ["model.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("ln_final.bias"), r"text_model\.final_layer_norm\.bias is missing"),
        (lambda s: s.update({"head.weight": torch.zeros(1)}), r"'head\.weight' is unknown"),
        (lambda s: s.update({"visual.proj": torch.zeros(WIDTH, 3)}), r"visual_projection\.weight"),
        (lambda s: s["visual.proj"].fill_(torch.nan), "is not finite"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    change: object, message: str, published: Published, clip_folder: Path, tmp_path: Path
) -> None:
    state = published.state_dict()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "other.pt")

    with pytest.raises(WeightsError, match=message):
        convert_hps(tmp_path / "other.pt", Weights(location=str(clip_folder)), tmp_path / "hps")

    assert not (tmp_path / "hps").exists()


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"layers.0.weight": _RunsCode()}, tmp_path / "evil.pth")

    with pytest.raises(WeightsError, match="could run code"):
        convert_aesthetic(tmp_path / "evil.pth", tmp_path / "head")

    assert not Path("ran").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle at all"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(content)

    with pytest.raises(WeightsError, match=r"cut\.pth"):
        convert_aesthetic(tmp_path / "cut.pth", tmp_path / "head")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth does not exist"):
        convert_aesthetic(tmp_path / "absent.pth", tmp_path / "head")


def test_a_converted_predictor_rates_as_the_published_one(tmp_path: Path) -> None:
    network = published_network()
    torch.save(published_tensors(network), tmp_path / "predictor.pth")
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))

    options = {"--checkpoint": tmp_path / "predictor.pth", "--output": tmp_path / "head"}
    result = CliRunner().invoke(app, ["scorers", "convert-aesthetic", *flat(options)])

    assert result.exit_code == 0, result.output
    with torch.no_grad():
        converted = load_predictor(tmp_path / "head")(features)
        torch.testing.assert_close(converted, network(features), atol=1e-6, rtol=0)
