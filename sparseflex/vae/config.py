"""VAEConfig: the sizes of a SparseFlex VAE, from the release's YAML, from our own metadata, or from the weights."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflex.voxels import MAX_RESOLUTION

if TYPE_CHECKING:
    import yaml

UPSCALE = 4
"""Two upsamplings: latents at resolution R give a surface at 4R."""

MAX_LATENT_RESOLUTION = MAX_RESOLUTION // UPSCALE
MAX_POINTS = 100_000_000
_MAX_SIZE = 1 << 20  # of all else: what tensors have, in bytes too, then fits 64 bits
_MAX_YAML_BYTES = 100_000
# what a scalar raises that claims a tag it isn't of, and what is nested too deep
_UNREADABLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of the networks; the defaults are the release's (178,833,479 parameters).

    resolution: of the latents' voxels, the surface's is four times that. hidden_channels and point_channels: width of
    the point encoder within and at its end. model_channels: width of both trunks, n_heads heads in each of their
    blocks, attention within windows of window_size voxels. n_points and prune: what a run takes unless asked
    otherwise, points of an input and whether upsampling prunes. Raises ValueError naming the size, the rule and the
    value.
    """

    resolution: int = 256
    hidden_channels: int = 256
    point_channels: int = 1024
    n_point_blocks: int = 5
    model_channels: int = 768
    latent_channels: int = 8
    n_encoder_blocks: int = 12
    n_decoder_blocks: int = 12
    n_heads: int = 12
    mlp_ratio: int = 4
    window_size: int = 8
    n_points: int = 819_200
    prune: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "prune":
                if not isinstance(value, bool):
                    raise ValueError(f"prune must be true or false, got {reprlib.repr(value)}")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                got = reprlib.repr(value)  # of a file: it may be of any length
                raise ValueError(f"{field.name} must be a whole number of at least 1, got {got}")
            elif value > (most := MAX_POINTS if field.name == "n_points" else _MAX_SIZE):
                raise ValueError(f"{field.name} must be at most {most}, got {reprlib.repr(value)}")
        if self.resolution > MAX_LATENT_RESOLUTION:
            raise ValueError(f"resolution must be at most {MAX_LATENT_RESOLUTION}, so that keys of the voxels at "
                             f"{UPSCALE} times that fit 64 bits, got {reprlib.repr(self.resolution)}")
        if self.model_channels % self.n_heads:
            raise ValueError(f"n_heads must divide model_channels {self.model_channels}, got {self.n_heads}")
        if self.model_channels % 256:  # 32 groups at an eighth of the width
            raise ValueError(f"model_channels must be a multiple of 256, got {self.model_channels}")

    @property
    def level_channels(self) -> tuple[int, int]:
        """Width after each of the two upsamplings."""
        return self.model_channels // 4, self.model_channels // 8

    @property
    def surface_resolution(self) -> int:
        return UPSCALE * self.resolution


def config_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> VAEConfig:
    """The sizes that a state dict's shapes tell; resolution, window and points, which none does, are the release's.

    Heads are taken to be 64 wide, as in the release. Raises KeyError for a key that is missing, ValueError for shapes
    of no such network.
    """
    def shape(key: str, n_axes: int) -> tuple[int, ...]:
        found = tuple(shapes[key])
        if len(found) != n_axes:
            raise ValueError(f"{key} must have {n_axes} axes, got shape {found}")
        return found

    width = shape("encoder.input_layer.weight", 2)[0]
    return VAEConfig(
        hidden_channels=shape("local_pc_encoder.fc_c.weight", 2)[1],
        point_channels=shape("local_pc_encoder.fc_c.weight", 2)[0],
        n_point_blocks=block_count(shapes, "n_point_blocks"),
        model_channels=width,
        latent_channels=shape("decoder.input_layer.weight", 2)[1],
        n_encoder_blocks=block_count(shapes, "n_encoder_blocks"),
        n_decoder_blocks=block_count(shapes, "n_decoder_blocks"),
        n_heads=max(width // 64, 1),
        mlp_ratio=max(shape("encoder.blocks.0.mlp.mlp.0.weight", 2)[0] // max(width, 1), 1),
    )


BLOCKS = {"n_point_blocks": "local_pc_encoder.blocks.", "n_encoder_blocks": "encoder.blocks.",
          "n_decoder_blocks": "decoder.blocks."}
"""What the keys of each kind of block begin with."""


def block_count(keys: Iterable[str], size: str) -> int:
    """How many blocks of one of BLOCKS there are: only numbers that follow each other, a name may claim any."""
    ends = (key.removeprefix(BLOCKS[size]).partition(".") for key in keys if key.startswith(BLOCKS[size]))
    there, number = {number for number, dot, _ in ends if dot}, 0
    while str(number) in there:
        number += 1
    return number


def config_from_yaml(path: str | Path, base: VAEConfig) -> VAEConfig:
    """The sizes in a YAML file of the release, base for those that it leaves out.

    The only interpolation is `${resolution}`. Raises FileNotFoundError, or ValueError in one line for what is no such
    file or asks for what this network doesn't have.
    """
    import yaml  # lazily: the library works without it

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > _MAX_YAML_BYTES:
        raise ValueError(f"{path}: a config must be at most {_MAX_YAML_BYTES:,} bytes, got {path.stat().st_size:,}")
    try:
        table = yaml.load(path.read_text("utf-8"), _loader())
    except (yaml.YAMLError, *_UNREADABLE) as error:
        raise ValueError(f"{path}: not a YAML config: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(table, dict) or not isinstance(table.get("encoder"), dict):
        raise ValueError(f"{path}: a config must be a table with encoder, decoder and local_pc_encoder")
    try:
        _refuse_unknown(table)
        return dataclasses.replace(base, **_sizes(table))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _loader() -> type[yaml.SafeLoader]:
    """Plain values alone. Without aliases: nested ones make a table of a few hundred bytes endless."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(f"it must have no aliases, got *{self.peek_event().anchor[:40]}")
            return super().compose_node(parent, index)

    return Loader


_SIZES = {
    "resolution": "resolution", "sample_points_num": "n_points", "pruning": "prune",
    "local_pc_encoder.hidden_dim": "hidden_channels", "local_pc_encoder.out_channels": "point_channels",
    "local_pc_encoder.n_blocks": "n_point_blocks", "encoder.in_channels": "point_channels",
    **{f"{part}.{name}": size for part in ("encoder", "decoder") for name, size in (
        ("resolution", "resolution"), ("model_channels", "model_channels"), ("latent_channels", "latent_channels"),
        ("num_heads", "n_heads"), ("mlp_ratio", "mlp_ratio"), ("window_size", "window_size"))},
    "encoder.num_blocks": "n_encoder_blocks", "decoder.num_blocks": "n_decoder_blocks",
}
"""Where the release's YAML has each size."""

_FIXED = {
    "local_pc_encoder.in_channels": 6, "local_pc_encoder.scatter_type": "mean", "use_normals": True,
    **{f"{part}.{name}": value for part in ("encoder", "decoder") for name, value in (
        ("attn_mode", "swin"), ("pe_mode", "ape"), ("qk_rms_norm", False))},
    "decoder.representation_config.use_color": False,
}
"""What these networks do in one way alone."""


def _look_up(table: Mapping[str, Any], place: str) -> Any:
    found: Any = table
    for name in place.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return table.get("resolution") if found == "${resolution}" else found


def _refuse_unknown(table: Mapping[str, Any]) -> None:
    for place, allowed in _FIXED.items():
        value = _look_up(table, place)
        if value is not None and value != allowed:
            raise ValueError(f"{place} must be {allowed!r}, got {reprlib.repr(value)}")
    for part in ("encoder", "decoder"):
        width, heads, each = (_look_up(table, f"{part}.{name}") for name in
                              ("model_channels", "num_heads", "num_head_channels"))
        if None not in (width, heads, each) and not (isinstance(heads, int) and isinstance(each, int)
                                                     and heads * each == width):
            raise ValueError(f"{part}.num_heads × num_head_channels must be model_channels {reprlib.repr(width)}, "
                             f"got {reprlib.repr(heads)} × {reprlib.repr(each)}")


def _sizes(table: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, name in _SIZES.items():
        value = _look_up(table, place)
        if value is None:
            continue
        if name in found and found[name] != value:
            raise ValueError(f"{place} must be {reprlib.repr(found[name])} as elsewhere in the file, got "
                             f"{reprlib.repr(value)}")
        found[name] = value
    return found
