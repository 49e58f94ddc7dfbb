"""SparseFlexVAE: points to latents on sparse voxels and back to a surface, value for value the public release's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sparseflex.extraction import extract_mesh
from sparseflex.mesh import Mesh
from sparseflex.representation import N_CHANNELS, SparseFlex
from sparseflex.sparse import VoxelBatch
from sparseflex.vae.config import VAEConfig
from sparseflex.vae.decoding import Level, check_decode, upsample_and_prune
from sparseflex.vae.point_encoder import PointEncoder, point_inputs
from sparseflex.vae.preprocess import check_points, input_voxels
from sparseflex.vae.transformer import Trunk
from sparseflex.vae.upsampling import upsamplings
from sparseflex.voxels import SparseVoxels

_LOGVAR_RANGE = (-30.0, 20.0)
_LATENT_NORM_EPS = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution for the latent of each voxel."""

    mean: Float[Tensor, "voxels latent"]
    logvar: Float[Tensor, "voxels latent"]

    @property
    def std(self) -> Float[Tensor, "voxels latent"]:
        return (0.5 * self.logvar).exp()

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "voxels latent"]:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype,
                            device=self.mean.device if generator is None else generator.device)
        return self.mean + self.std * noise.to(self.mean.device)

    def kl(self) -> Float[Tensor, ""]:
        """Divergence from N(0, I), the mean over voxels and channels (L_KL of the paper)."""
        if self.mean.numel() == 0:
            return self.mean.sum()
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).mean()


class Encoder(Trunk):
    """Voxel features to the parameters of their latents' distributions."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config, config.point_channels, config.n_encoder_blocks)
        self.out_layer = nn.Linear(config.model_channels, 2 * config.latent_channels)

    def posterior(self, x: Float[Tensor, "voxels channels"]) -> Posterior:
        """From what the last block gives; float32."""
        x = functional.layer_norm(x.float(), x.shape[-1:], eps=_LATENT_NORM_EPS).to(x.dtype)
        mean, logvar = self.out_layer(x).float().chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*_LOGVAR_RANGE))


class Decoder(Trunk):
    """Latents to 53 channels for each voxel of the surface, four times finer."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__(config, config.latent_channels, config.n_decoder_blocks)
        self.upsample = upsamplings(config)
        self.out_layer = nn.Linear(config.level_channels[-1], N_CHANNELS)


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """The levels of a decode, and 53 channels (float32) for each of the voxels that were left."""

    levels: tuple[Level, ...]
    batch: VoxelBatch
    features: Float[Tensor, "voxels 53"]

    def flex(self, shape: int = 0) -> SparseFlex:
        return SparseFlex.from_features(self.batch.sets[shape], self.batch.split(self.features)[shape])


@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """A surface from points, with all that led to it. voxels: those of the latents; n_points_left_out: points that lie
    in none of them."""

    mesh: Mesh
    flex: SparseFlex
    levels: tuple[Level, ...]
    voxels: SparseVoxels
    posterior: Posterior
    latent: Float[Tensor, "voxels latent"]
    features: Float[Tensor, "kept 53"]
    n_points_left_out: int = 0


class SparseFlexVAE(nn.Module):
    """The networks under the keys of the public release (TripoSF VAE): 257 tensors at the release's sizes."""

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VAEConfig()
        self.local_pc_encoder = PointEncoder(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, config: str | Path | VAEConfig | None = None, *,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> SparseFlexVAE:
        """The model that a file holds, in evaluation mode: the release's .safetensors, our own, or a .pt.

        config: the release's YAML, or the sizes; where None our own format's metadata, or the weights' shapes and the
        release's resolution. A .pt is read as weights only: nothing in it is executed. dtype: of the networks; float16
        and bfloat16 on CUDA alone, the extraction is in float32 whatever it is. Raises FileNotFoundError, or
        ValueError in one line, which says what keys are missing, unexpected or of another shape.
        """
        from sparseflex.vae.weights import read_checkpoint

        try:
            device = torch.zeros(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device must be one that torch can use here, got {str(device)!r}: {reason}") from None
        if dtype != torch.float32 and (dtype not in (torch.float16, torch.bfloat16) or device.type != "cuda"):
            raise ValueError(f"dtype must be float32, or float16 or bfloat16 on CUDA, got {dtype} on {device.type}")
        sizes, tensors = read_checkpoint(path, config)
        with torch.device("meta"):
            model = cls(sizes)
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False).eval().to(device, dtype)

    def save(self, path: str | Path) -> None:
        """Writes our own format: safetensors with the sizes in its metadata."""
        from sparseflex.vae.weights import save_weights

        save_weights(path, self)

    @property
    def device(self) -> torch.device:
        return self.decoder.out_layer.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.out_layer.weight.dtype

    # -- the way in ---------------------------------------------------------------------------------------------

    def encode_points(
        self, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], batch: VoxelBatch,
        shape_index: Int[Tensor, "points"] | None = None,
    ) -> tuple[Float[Tensor, "voxels channels"], int]:
        """Features of the voxels, and how many points lie in none of them; shape_index: see point_inputs."""
        inputs, rows = point_inputs(points, normals, batch, shape_index)
        inside = rows >= 0
        n_left_out = int((~inside).sum())
        if n_left_out:
            inputs, rows = inputs[inside], rows[inside]
        return self.local_pc_encoder(inputs.to(self.dtype), rows, batch.n_voxels), n_left_out

    def encode(
        self, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], batch: VoxelBatch,
        shape_index: Int[Tensor, "points"] | None = None,
    ) -> Posterior:
        """Points in the normalised frame to the distribution of each voxel's latent."""
        features, _ = self.encode_points(points, normals, batch, shape_index)
        return self.encoder.posterior(self.encoder.run(features, batch))

    # -- the way out --------------------------------------------------------------------------------------------

    def decode(
        self, latent: Float[Tensor, "voxels latent"], batch: VoxelBatch, *, prune: bool = True,
        thresholds: Sequence[float] = (0.0, 0.0), chunk_voxels: int | None = None,
    ) -> Decoded:
        """Trunk, two upsamplings and head. thresholds: the logit from which on a child is kept, level by level.

        chunk_voxels: at most so many parents at once, with equal results, see decoding.upsample. A level where nothing
        is kept leaves the ones after it empty. Raises ValueError where thresholds aren't two.
        """
        check_decode(thresholds, chunk_voxels)
        x = self.decoder.run(latent.to(self.dtype), batch)
        return self.decode_trunk(x, batch, prune=prune, thresholds=thresholds, chunk_voxels=chunk_voxels)

    def decode_trunk(
        self, x: Float[Tensor, "voxels channels"], batch: VoxelBatch, *, prune: bool = True,
        thresholds: Sequence[float] = (0.0, 0.0), chunk_voxels: int | None = None,
    ) -> Decoded:
        """The same from what the trunk gave."""
        check_decode(thresholds, chunk_voxels)
        levels = []
        for block, threshold in zip(self.decoder.upsample, thresholds, strict=True):
            level = upsample_and_prune(block, x, batch, prune=prune, threshold=threshold, chunk_voxels=chunk_voxels)
            levels.append(level)
            x, batch = level.features, level.kept_batch()
        return Decoded(tuple(levels), batch, self.head(x))

    def head(self, x: Float[Tensor, "voxels channels"]) -> Float[Tensor, "voxels 53"]:
        """The 53 channels, float32."""
        return self.decoder.out_layer(x).float()

    # -- all of it ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(
        self, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"],
        voxel_ijk: Int[Tensor, "voxels 3"] | None = None, prune: bool = True, sample_posterior: bool = False,
        generator: torch.Generator | None = None, *, thresholds: Sequence[float] = (0.0, 0.0),
        chunk_voxels: int | None = None, training_mesh: bool = False,
    ) -> Reconstruction:
        """The surface of points with unit normals in the normalised frame (box [-0.5, 0.5]³).

        voxel_ijk: where latents are, those in or next to the points where None (see preprocess.input_voxels). The
        latent is the distribution's mean, or a sample of it. Raises ValueError for points that can't be used; no voxel
        left after pruning is no error but an empty mesh.
        """
        check_decode(thresholds, chunk_voxels)
        resolution = self.config.resolution
        points, normals = check_points(points, normals, resolution)
        points, normals = points.to(self.device), normals.to(self.device)
        voxels = input_voxels(points, resolution) if voxel_ijk is None else SparseVoxels(voxel_ijk, resolution)
        batch = VoxelBatch((voxels.to(self.device),))
        features, n_left_out = self.encode_points(points, normals, batch)
        posterior = self.encoder.posterior(self.encoder.run(features, batch))
        latent = posterior.sample(generator) if sample_posterior else posterior.mean
        decoded = self.decode(latent, batch, prune=prune, thresholds=thresholds, chunk_voxels=chunk_voxels)
        flex = decoded.flex()
        mesh = extract_mesh(flex, training=training_mesh)
        return Reconstruction(mesh, flex, decoded.levels, batch.sets[0], posterior, latent, decoded.features,
                              n_left_out)
