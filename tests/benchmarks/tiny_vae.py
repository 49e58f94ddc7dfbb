"""Trains scenes/tiny_vae.safetensors, the small VAE of the demo and the tests: `python tests/benchmarks/tiny_vae.py`.

Not the paper's training: corners are taught the true signed distance, children whether the surface touches them, on
primitives and the gallery's shapes turned at random. It takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

import torch
import trimesh
from torch import Tensor
from torch.nn import functional

from sparseflex.data import normalize
from sparseflex.mesh import Mesh
from sparseflex.shapes import SHAPES, make_shape
from sparseflex.signed_distance import signed_distance
from sparseflex.sparse import VoxelBatch
from sparseflex.vae import SparseFlexVAE, VAEConfig
from sparseflex.vae.preprocess import input_voxels, sample_points
from sparseflex.vae.weights import save_weights
from sparseflex.voxels import SparseVoxels

OUT = Path(__file__).parents[2] / "scenes" / "tiny_vae.safetensors"
SIZES = VAEConfig(resolution=16, hidden_channels=32, point_channels=64, n_point_blocks=3, model_channels=256,
                  latent_channels=8, n_encoder_blocks=1, n_decoder_blocks=2, n_heads=4, mlp_ratio=2, n_points=40_000)
N_SHAPES, N_KEPT_OUT = 48, 4
KL, REST = 1e-4, 0.02


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A shape's points, and what its children should be: touched marks those at 2R and, of these, at 4R."""

    points: Tensor
    normals: Tensor
    batch: VoxelBatch
    touched: tuple[SparseVoxels, SparseVoxels]
    corner_sdf: Tensor


def random_shape(number: int, generator: torch.Generator) -> Mesh:
    """A primitive or a shape of the gallery, stretched and turned; every fifth is cut open."""
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    creation = trimesh.creation
    kinds = (lambda: creation.icosphere(3), lambda: creation.box((1, uniform(0.3, 1), uniform(0.3, 1))),
             lambda: creation.torus(1.0, uniform(0.2, 0.5), 48, 24), lambda: creation.cylinder(uniform(0.2, 0.7), 1.5),
             lambda: creation.cone(uniform(0.4, 0.9), 1.4), lambda: creation.capsule(1.0, uniform(0.3, 0.6)))
    names = list(SHAPES)
    kind = number % (len(kinds) + len(names))
    if kind < len(kinds):
        made = kinds[kind]()
        vertices, faces = torch.tensor(made.vertices), torch.tensor(made.faces)
        vertices = vertices * torch.tensor([uniform(0.6, 1.4) for _ in range(3)])
    else:
        made = make_shape(names[kind - len(kinds)])
        vertices, faces = made.vertices.double(), made.faces
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    vertices = vertices @ (turn * torch.linalg.det(turn).sign())
    if number % 5 == 4:
        faces = faces[vertices[faces][:, :, 0].mean(1) < vertices[:, 0].quantile(0.7)]
    return normalize(vertices.numpy(), faces.numpy())[0]


def lesson(mesh: Mesh, generator: torch.Generator) -> Lesson:
    """Everything about a shape that doesn't change."""
    resolution = SIZES.resolution
    points, normals = sample_points(mesh, SIZES.n_points, generator)
    voxels = input_voxels(points, resolution, mesh)
    first = within(SparseVoxels.from_mesh(mesh, 2 * resolution), voxels)
    second = within(SparseVoxels.from_mesh(mesh, 4 * resolution), first)
    return Lesson(points, normals, VoxelBatch((voxels,)), (first, second), signed_distance(mesh, second.corners_world))


def within(children: SparseVoxels, parents: SparseVoxels) -> SparseVoxels:
    return children.prune(parents.find(children.voxel_ijk // 2) >= 0)


def losses(model: SparseFlexVAE, given: Lesson, generator: torch.Generator) -> dict[str, Tensor]:
    posterior = model.encode(given.points, given.normals, given.batch)
    x = model.decoder.run(posterior.sample(generator), given.batch)
    found, batch = {"kl": posterior.kl()}, given.batch
    for number, (block, touched) in enumerate(zip(model.decoder.upsample, given.touched, strict=True)):
        features, logits = block(x, batch)
        children = batch.subdivide()
        kept = touched.find(children.voxel_ijk) >= 0
        found[f"prune_{number + 1}"] = functional.binary_cross_entropy_with_logits(logits, kept.float())
        found[f"accuracy_{number + 1}"] = ((logits >= 0) == kept).float().mean().detach()
        x, batch = features[kept], children.prune(kept)
    raw = model.head(x)
    voxels = batch.sets[0]
    own = given.touched[1].find_corners(voxels.corner_ijk)
    sdf = given.corner_sdf[own][voxels.voxel_corners.long()]
    wanted = (sdf * voxels.resolution + 1) / 4
    found["sdf"] = functional.l1_loss(raw[:, :8], wanted)
    found["sign"] = ((raw[:, :8] * 4 - 1).sign() == sdf.sign()).float().mean().detach()
    found["rest"] = raw[:, 8:].square().mean()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    lessons = [lesson(random_shape(number, generator), generator) for number in range(N_SHAPES)]
    unseen = [lesson(random_shape(number, generator), generator) for number in range(100, 100 + N_KEPT_OUT)]
    model = SparseFlexVAE(SIZES)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {N_SHAPES} shapes", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * step / options.steps)))
    started, means = time.monotonic(), {}
    for step in range(options.steps):
        given = lessons[int(torch.randint(len(lessons), (), generator=generator))]
        found = losses(model, given, generator)
        loss = found["prune_1"] + found["prune_2"] + 4 * found["sdf"] + KL * found["kl"] + REST * found["rest"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rates.step()
        means = {name: 0.95 * means.get(name, float(value)) + 0.05 * float(value) for name, value in found.items()}
        if step % 50 == 0 or step == options.steps - 1:
            told = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{step:5d} {time.monotonic() - started:6.0f} s  {told}", flush=True)
        if step % 200 == 199 or step == options.steps - 1:
            write(options.out, model)
    with torch.no_grad():
        for given in unseen:
            print("unseen", {name: round(float(value), 4) for name, value in losses(model, given, generator).items()})


def write(path: Path, model: SparseFlexVAE) -> None:
    """In float16: half the size, and no decision of it hangs on the rest."""
    half = SparseFlexVAE(model.config)
    half.load_state_dict(model.state_dict())
    save_weights(path, half.half())


if __name__ == "__main__":
    main()
