"""Loading checkpoints: the release's keys and YAML, our own format, .pt, and one clear line for every wrong file."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vae_weights import GOLDEN, tiny_weights

from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae.config import MAX_LATENT_RESOLUTION, config_from_shapes, config_from_yaml
from sparseflex.vae.weights import is_vae_checkpoint

TINY_YAML = GOLDEN / "tiny" / "config.yaml"
TINY = VAEConfig(resolution=32, hidden_channels=64, point_channels=128, model_channels=256, n_encoder_blocks=2,
                 n_decoder_blocks=2, n_heads=4, n_points=6000)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_weights()


@pytest.fixture
def checkpoint(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    save_file(weights, tmp_path / "tiny.safetensors", metadata={"format": "pt"})
    return tmp_path / "tiny.safetensors"


def refusal(path: Path, *arguments, kind: type[Exception] = ValueError) -> str:
    """The one line that a wrong file gets; it names the file."""
    with pytest.raises(kind) as found:
        SparseFlexVAE.from_checkpoint(path, *arguments)
    text = str(found.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_release_sizes_have_257_tensors_and_178_833_479_parameters():
    noted = json.loads((GOLDEN / "full_width" / "weights_checksums.json").read_text())
    with torch.device("meta"):
        state = SparseFlexVAE().state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == {key: row[0] for key, row in noted.items()}
    assert len(state) == 257 and sum(tensor.numel() for tensor in state.values()) == 178_833_479


def test_release_file_with_its_yaml(checkpoint, weights):
    model = SparseFlexVAE.from_checkpoint(checkpoint, TINY_YAML)
    assert model.config == TINY and not model.training
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_without_a_yaml_the_shapes_tell_all_but_the_resolution(checkpoint, weights):
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    told = config_from_shapes(shapes)
    assert told == VAEConfig(**{**vars(TINY), "resolution": 256, "n_points": 819_200})
    assert SparseFlexVAE.from_checkpoint(checkpoint).config == told
    full = json.loads((GOLDEN / "full_width" / "weights_checksums.json").read_text())
    assert config_from_shapes({key: tuple(row[0]) for key, row in full.items()}) == VAEConfig()


def test_yaml_interpolates_the_resolution_alone(tmp_path):
    text = TINY_YAML.read_text()
    assert text.count("${resolution}") == 2
    (tmp_path / "c.yaml").write_text(text.replace("\nresolution: 32", "\nresolution: 48"))
    assert config_from_yaml(tmp_path / "c.yaml", VAEConfig()).resolution == 48
    (tmp_path / "c.yaml").write_text(text.replace("${resolution}", "${width}", 1))
    with pytest.raises(ValueError, match="resolution must be .* as elsewhere|whole number"):
        config_from_yaml(tmp_path / "c.yaml", VAEConfig())


@pytest.mark.parametrize(("old", "new", "said"), [
    ("attn_mode: swin", "attn_mode: full", "encoder.attn_mode must be 'swin', got 'full'"),
    ("scatter_type: mean", "scatter_type: max", "scatter_type must be 'mean', got 'max'"),
    ("use_color: false", "use_color: true", "use_color must be False, got True"),
    ("num_heads: 4", "num_heads: 5", r"num_heads × num_head_channels must be model_channels 256, got 5 × 64"),
    ("resolution: 32", "resolution: 600000", f"resolution must be at most {MAX_LATENT_RESOLUTION}"),
    ("resolution: 32", "resolution: -4", "resolution must be a whole number of at least 1, got -4"),
    ("resolution: 32", "resolution: [", "not a YAML config"),
    ("encoder:", "decoder_only:", "a config must be a table with encoder"),
])
def test_yaml_that_asks_for_another_network(tmp_path, checkpoint, old, new, said):
    (tmp_path / "c.yaml").write_text(TINY_YAML.read_text().replace(old, new))
    text = refusal(checkpoint, tmp_path / "c.yaml")
    assert "c.yaml" in text
    with pytest.raises(ValueError, match=said):
        raise ValueError(text)


def test_yaml_of_another_size_names_the_tensors(tmp_path, checkpoint):
    (tmp_path / "c.yaml").write_text(TINY_YAML.read_text().replace("num_blocks: 2", "num_blocks: 3"))
    text = refusal(checkpoint, tmp_path / "c.yaml")
    assert "missing (encoder.blocks.2.attn.to_qkv.weight" in text and "tiny.safetensors" in text
    (tmp_path / "c.yaml").write_text(TINY_YAML.read_text().replace("num_blocks: 2", "num_blocks: 1000000"))
    assert "n_encoder_blocks must be 2 as in the weights" in refusal(checkpoint, tmp_path / "c.yaml")


def test_own_format_holds_its_sizes(tmp_path, checkpoint):
    model = SparseFlexVAE.from_checkpoint(checkpoint, TINY_YAML)
    model.save(tmp_path / "own.safetensors")
    again = SparseFlexVAE.from_checkpoint(tmp_path / "own.safetensors")
    assert again.config == TINY
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="must be saved as .safetensors"):
        model.save(tmp_path / "own.pt")


@pytest.mark.parametrize("wrapped", [False, True])
def test_pt_by_weights_alone(tmp_path, weights, wrapped):
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "tiny.pt")
    model = SparseFlexVAE.from_checkpoint(tmp_path / "tiny.pt", TINY_YAML)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())


def test_half_precision_files_are_read_as_float32(tmp_path, weights):
    save_file({key: tensor.bfloat16() for key, tensor in weights.items()}, tmp_path / "half.safetensors")
    model = SparseFlexVAE.from_checkpoint(tmp_path / "half.safetensors", TINY_YAML)
    assert model.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be float32, or float16 or bfloat16 on CUDA"):
        SparseFlexVAE.from_checkpoint(tmp_path / "half.safetensors", TINY_YAML, dtype=torch.bfloat16)


def test_wrong_keys_and_shapes_are_named(tmp_path, weights):
    changed = dict(weights)
    del changed["decoder.out_layer.bias"]
    changed["decoder.surprise"] = torch.zeros(3)
    changed["encoder.out_layer.bias"] = torch.zeros(17)
    save_file(changed, tmp_path / "wrong.safetensors")
    text = refusal(tmp_path / "wrong.safetensors", TINY_YAML)
    assert "1 missing (decoder.out_layer.bias)" in text and "1 unexpected (decoder.surprise)" in text
    assert "1 of another shape (encoder.out_layer.bias (17,) instead of (16,))" in text


def test_keys_under_another_prefix_are_listed(tmp_path, weights):
    save_file({f"module.{key}": tensor for key, tensor in weights.items()}, tmp_path / "prefix.safetensors")
    text = refusal(tmp_path / "prefix.safetensors", TINY_YAML)
    assert "97 tensors are wanted, of which 97 missing (" in text and "97 unexpected (module." in text
    text = refusal(tmp_path / "prefix.safetensors")
    assert "257 missing" in text and "97 unexpected" in text
    save_file({**weights, "a\nb" + 400 * "c": torch.zeros(1)}, tmp_path / "odd.safetensors")
    assert "1 unexpected (a?bccc" in refusal(tmp_path / "odd.safetensors", TINY_YAML)


@pytest.mark.parametrize(("change", "said"), [
    (torch.Tensor.to_sparse, "must hold its values, got a torch.sparse_coo tensor"),
    (lambda x: x.to("meta"), "must hold its values, got a torch.strided tensor on meta"),
    (lambda x: x.to(torch.float8_e4m3fn), "must be of floating point .*, got torch.float8_e4m3fn"),
    (lambda x: x.flatten()[:1].clone().expand(x.shape), "must hold 8,192 values, got 4 bytes"),
])
def test_pt_with_tensors_of_other_kinds(tmp_path, weights, change, said):
    torch.save({**weights, "local_pc_encoder.fc_c.weight": change(weights["local_pc_encoder.fc_c.weight"])},
               tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=f"fc_c.weight {said}"):
        raise ValueError(refusal(tmp_path / "odd.pt", TINY_YAML))


def test_pt_that_asks_for_more_memory_than_there_is(tmp_path):
    with torch.device("meta"):
        state = SparseFlexVAE(VAEConfig(model_channels=1 << 20, n_heads=1 << 14)).state_dict()
    torch.save({key: torch.zeros(1).expand(tensor.shape) for key, tensor in state.items()}, tmp_path / "huge.pt")
    assert "values, got 4 bytes" in refusal(tmp_path / "huge.pt")


NESTED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9))


@pytest.mark.parametrize(("before", "old", "new"), [
    (NESTED, "use_normals: true", "use_normals: *a8"), (NESTED, "resolution: 32", "resolution: *a8"),
    (MERGED, "", ""), ("", "resolution: 32", "resolution: &a [*a]"), ("", "resolution: 32", "resolution: 2001-99-99"),
    ("", "resolution: 32", f"resolution: {'9' * 5000}"), ("", "resolution: 32", "resolution: !!timestamp x"),
    ("", "resolution: 32", "resolution: !!int x"), ("", "resolution: 32", f'resolution: "{"x " * 9000}"'),
    ("", "resolution: 32", "resolution: !!python/object/apply:os.system [ls]"), ("z: " + "[" * 9000 + "\n", "", ""),
    ("", "num_heads: 4", f"num_heads: [{'0, ' * 9000}]"), ("# " + "x" * 100_000 + "\n", "", ""),
], ids=range(13))
def test_hostile_yaml(tmp_path, checkpoint, before, old, new):
    text = TINY_YAML.read_text()
    (tmp_path / "c.yaml").write_text(before + (text.replace(old, new) if old else text))
    assert "c.yaml" in refusal(checkpoint, tmp_path / "c.yaml")


def test_values_must_be_finite_numbers(tmp_path, weights):
    bad = weights["decoder.out_layer.bias"].clone()
    bad[3] = torch.nan
    save_file({**weights, "decoder.out_layer.bias": bad}, tmp_path / "nan.safetensors")
    assert "decoder.out_layer.bias must be finite" in refusal(tmp_path / "nan.safetensors", TINY_YAML)
    save_file({**weights, "decoder.out_layer.bias": bad.nan_to_num().int()}, tmp_path / "int.safetensors")
    assert "), got torch.int32" in refusal(tmp_path / "int.safetensors", TINY_YAML)


def test_other_files_are_refused(tmp_path, checkpoint):
    assert "no such file" in refusal(tmp_path / "none.safetensors", kind=FileNotFoundError)
    assert "is a directory" in refusal(tmp_path, kind=FileNotFoundError)
    (tmp_path / "a.bin").write_bytes(b"")
    assert "unknown checkpoint type '.bin'" in refusal(tmp_path / "a.bin")
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    text = refusal(tmp_path / "x.safetensors")
    assert "is no SparseFlex VAE: 257 tensors are wanted, of which 257 missing (" in text and "1 unexpected (x)" in text
    assert is_vae_checkpoint(checkpoint) and not is_vae_checkpoint(tmp_path / "x.safetensors")
    assert not is_vae_checkpoint(tmp_path / "none.safetensors") and not is_vae_checkpoint(tmp_path / "a.bin")


@pytest.mark.parametrize("device", ["nonsense", "cuda:9999"])
def test_a_device_that_is_not_there(checkpoint, device):
    with pytest.raises(ValueError, match=f"device must be one that torch can use here, got '{device}'"):
        SparseFlexVAE.from_checkpoint(checkpoint, TINY_YAML, device=device)


@pytest.mark.parametrize("n_bytes", [0, 4, 9, 3000, 1_000_000])
def test_truncated_safetensors(tmp_path, checkpoint, n_bytes):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:n_bytes])
    assert "can't be read as safetensors" in refusal(cut)
    assert not is_vae_checkpoint(cut) or n_bytes == 1_000_000


def test_hostile_safetensors_headers(tmp_path):
    for header in (b"{" * 1000, b'{"x": {"dtype": "F32", "shape": [999999999999], "data_offsets": [0, 4]}}'):
        (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
        assert "can't be read as safetensors" in refusal(tmp_path / "h.safetensors")
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "can't be read as safetensors" in refusal(tmp_path / "h.safetensors")


@pytest.mark.parametrize("config", ['{"resolution": "x"}', "[", '{"surprise": 1}', "3", "[" * 100_000,
                                    '{"resolution": ' + "9" * 4000 + "}", '{"resolution": "' + r"9\n" * 9000 + '"}'])
def test_own_metadata_must_hold_sizes(tmp_path, weights, config):
    save_file(weights, tmp_path / "own.safetensors", metadata={"format": "sparseflex-vae-1", "config": config})
    assert "its metadata hold no sizes of a VAE" in refusal(tmp_path / "own.safetensors")


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-was-executed", "w"))


def test_code_in_a_pt_is_never_executed(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    torch.save({**weights, "x": Bomb()}, tmp_path / "bomb.pt")
    assert "holds more than weights" in refusal(tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    refusal(tmp_path / "plain.pt")
    assert not (tmp_path / "bomb-was-executed").exists()
    torch.save(weights, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:100_000])
    assert "can't be read as weights" in refusal(tmp_path / "cut.pt")
    few = {"a": torch.ones(3), "b": torch.ones(2)}
    torch.save(few, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    key = str(few["a"].untyped_storage()._cdata).encode()
    start, end = (tmp_path / "old.pt").read_bytes().rsplit(key, 1)
    (tmp_path / "old.pt").write_bytes(start + b"x" * len(key) + end)
    assert "can't be read as weights" in refusal(tmp_path / "old.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "must hold a state dict" in refusal(tmp_path / "list.pt")


def test_the_largest_sizes_are_those_of_tensors_that_can_be(tmp_path, weights):
    names = ("hidden_channels", "point_channels", "model_channels", "latent_channels", "mlp_ratio")
    sizes = dict.fromkeys(names, 1 << 20)
    save_file(weights, tmp_path / "own.safetensors")
    assert "of another shape" in refusal(tmp_path / "own.safetensors", dataclasses.replace(TINY, **sizes))


@pytest.mark.parametrize(("sizes", "said"), [
    ({"resolution": MAX_LATENT_RESOLUTION + 1}, "resolution must be at most"),
    ({"resolution": 0}, "resolution must be a whole number of at least 1, got 0"),
    ({"model_channels": 100, "n_heads": 4}, "model_channels must be a multiple of 256, got 100"),
    ({"n_heads": 7}, "n_heads must divide model_channels 768, got 7"),
    ({"prune": 1}, "prune must be true or false, got 1"),
    ({"n_points": 10**9}, "n_points must be at most 100000000, got 1000000000"),
    ({"window_size": 10**30}, "window_size must be at most 1048576, got 1000"),
    *(({name: 2**62}, f"{name} must be at most 1048576, got 4611686018427387904") for name in (
        "hidden_channels", "point_channels", "model_channels", "latent_channels", "mlp_ratio")),
    ({"n_points": 2.5}, "n_points must be a whole number"),
])
def test_sizes_are_checked(sizes, said):
    with pytest.raises(ValueError, match=said):
        VAEConfig(**sizes)
