"""The stages of one pass through a SparseFlexVAE, each kept until what it is made of changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparseflex.extraction import extract_mesh
from sparseflex.representation import SparseFlex
from sparseflex.sparse import VoxelBatch, attention_of_row
from sparseflex.training.reconstruct_levels import cause_scalars, level_scalars, prune_event, warning_of
from sparseflex.training.reconstruct_products import (
    Attention,
    Children,
    Kept,
    Latent,
    Product,
    Shape,
    Surface,
    posterior_on,
    stage_names,
)
from sparseflex.training.reconstruct_release import in_order_of, release_pass
from sparseflex.training.reconstruct_settings import ReconstructSettings, place_of
from sparseflex.vae.decisions import Decisions, holds_point
from sparseflex.vae.decoding import decide, upsample, upsample_and_prune
from sparseflex.vae.diagnosis import Diagnosis, diagnose, open_edges
from sparseflex.vae.latent_edits import Latents
from sparseflex.vae.model import Posterior, SparseFlexVAE
from sparseflex.vae.transformer import Trunk
from sparseflex.voxels import SparseVoxels

_BLOCKS = ("point features", "encoder", "trunk")

KEPT_BYTES = 1_000_000_000
"""What blocks gave is kept up to so much in all, and made again from what came before where it is asked for."""


class StageChain:
    """Runs stages in their order; one whose key is that of its product has nothing to do.

    settings are those of the pass; products those of the last run of each stage. kept_bytes: see KEPT_BYTES; what is
    dropped first is what was made first.
    """

    def __init__(self, model: SparseFlexVAE, shape: Shape, other: Shape | None, kept_bytes: int = KEPT_BYTES) -> None:
        self.model, self.shape, self.other, self.kept_bytes = model, shape, other, kept_bytes
        self.stages = stage_names(model.config)
        self.settings = ReconstructSettings({}, other is not None)
        self.products: dict[str, Product] = {}
        self._known_posterior: tuple[object, Posterior] | None = None
        self._other_posterior: tuple[SparseVoxels, Posterior] | None = None
        self._edited_batch: VoxelBatch | None = None
        self._children: dict[int, tuple[VoxelBatch, VoxelBatch]] = {}

    @torch.no_grad()
    def run(self, stage: str) -> Product:
        """The stage's product, made unless it is there already."""
        key = self._key(stage)
        known = self.products.get(stage)
        if known is None or known.key != key:
            if known is not None and not stage.startswith("prune"):
                del self.products[stage]  # before the memory is needed for the new one
                known.features = None
            kind, _, number = stage.rpartition(" ") if stage[-1].isdigit() else (stage, "", "0")
            product = getattr(self, f"_make_{kind.replace(' ', '_')}")(key, int(number))
            self.products[stage] = product
            if known is not None and known.token is not product.token:
                self._drop_features_after(stage)
            self._drop_features(stage)
        return self.products[stage]

    def is_current(self, stage: str) -> bool:
        """Whether a stage's product belongs to those before it."""
        known = self.products.get(stage)
        first = stage == self.stages[0]
        return known is not None and (first or (self.is_current(self.before(stage)) and known.key == self._key(stage)))

    def before(self, stage: str) -> str:
        return self.stages[self.stages.index(stage) - 1]

    def _key(self, stage: str) -> tuple[Any, ...]:
        settings = self.settings
        before = () if stage == self.stages[0] else (self.products[self.before(stage)].token,)
        if stage == "latent":
            sampled = (settings.seed,) if settings["sample_posterior"] else ()
            return (*before, sampled, settings.edits.key)
        if stage.startswith("upsample"):
            if settings.release_chunks:  # decoded all at once, in the first of the stages
                return (*before, settings.thresholds if settings.prune else ())
            return (*before, settings.chunk_voxels)
        if stage.startswith("prune"):
            return (*before, settings.thresholds[int(stage[-1]) - 1] if settings.prune else None)
        return before

    # -- the way in ---------------------------------------------------------------------------------------------

    def _make_points(self, key: tuple, _: int) -> Product:
        return Product(key, scalars={"points": float(len(self.shape.points))})

    def _make_voxels(self, key: tuple, _: int) -> Product:
        batch = VoxelBatch((self.shape.input_voxels(self.model.config.resolution).to(self.model.device),))
        return Product(key, batch)

    def _make_point_features(self, key: tuple, _: int) -> Product:
        batch = self.products["voxels"].batch
        features, _ = self.model.encode_points(self.shape.points, self.shape.normals, batch)
        return Product(key, batch, features)

    def _make_encoder(self, key: tuple, number: int) -> Product:
        return self._through_block(key, f"encoder {number}")

    def _make_trunk(self, key: tuple, number: int) -> Product:
        return self._through_block(key, f"trunk {number}")

    def _make_latent(self, key: tuple, _: int) -> Product:
        settings, batch = self.settings, self.products["voxels"].batch
        posterior = self._posterior()
        first, other = Latents(batch.sets[0], self._latent_of(posterior)), None
        if settings.edits.need_other:
            voxels, others = self._posterior_of_other()
            other = Latents(voxels, self._latent_of(others))
        edited = settings.edits.apply(first, other)
        shown, voxels = posterior, edited.latents.voxels
        if voxels is not batch.sets[0]:
            if self._edited_batch is None or not _same_voxels(self._edited_batch.sets[0], voxels):
                self._edited_batch = VoxelBatch((voxels,))
            batch = self._edited_batch
            shown = posterior_on(voxels, first.voxels, posterior, other.voxels, others)
        scalars = {"latent_voxels": float(voxels.n_voxels), "loss_kl": float(posterior.kl())}
        return Product(key, batch, edited.latents.values, Latent(shown, edited), scalars)

    def _posterior(self) -> Posterior:
        """Found once, so that edits don't need what the encoder's last block gave."""
        last = self.products[self.before("latent")].token
        if self._known_posterior is None or self._known_posterior[0] is not last:
            self._known_posterior = last, self.model.encoder.posterior(self.output(self.before("latent")))
        return self._known_posterior[1]

    def _latent_of(self, posterior: Posterior) -> Float[Tensor, "voxels latent"]:
        if not self.settings["sample_posterior"]:
            return posterior.mean
        return posterior.sample(torch.Generator().manual_seed(self.settings.seed))

    def _posterior_of_other(self) -> tuple[SparseVoxels, Posterior]:
        """Encoded once: nothing that can be changed changes it."""
        if self._other_posterior is None:
            batch = VoxelBatch((self.other.input_voxels(self.model.config.resolution).to(self.model.device),))
            self._other_posterior = batch.sets[0], self.model.encode(self.other.points, self.other.normals, batch)
        return self._other_posterior

    # -- the way out --------------------------------------------------------------------------------------------

    def _make_upsample(self, key: tuple, level: int) -> Product:
        before = self.before(f"upsample {level}")
        parents = self.products[before].batch
        x = None if self.settings.release_chunks and level > 1 else self.output(before)
        block, chunk = self.model.decoder.upsample[level - 1], self.settings.chunk_voxels
        batch = self._children_of(parents, level)
        if self.settings.release_chunks:
            features = None
            done = release_pass(self.model, x, parents, self.settings) if level == 1 else (
                self.products["upsample 1"].made.release)
            made = Children(done.logits(level, batch.sets[0]), None, done)
        elif chunk is None:
            features, logits = upsample(block, x, parents)
            made = Children(logits, None)
        else:
            settings = self.settings
            found = upsample_and_prune(block, x, parents, prune=settings.prune,
                                       threshold=settings.thresholds[level - 1], chunk_voxels=chunk)
            features, made = found.features, Children(found.occupancy_logits, found.kept)
        return Product(key, batch, features, made, {f"children_{level}": float(batch.n_voxels)})

    def _children_of(self, parents: VoxelBatch, level: int) -> VoxelBatch:
        """The same object for the same parents: voxels that didn't change aren't drawn anew."""
        known = self._children.get(level)
        if known is None or known[0] is not parents:
            known = self._children[level] = parents, parents.subdivide()
        return known[1]

    def _make_prune(self, key: tuple, level: int) -> Product:
        settings, children = self.settings, self.products[f"upsample {level}"]
        logits, threshold = children.made.logits, settings.thresholds[level - 1]
        kept = decide(logits, settings.prune, threshold)
        known = self.products.get(f"prune {level}")
        if known is not None and known.made.children is children.batch and torch.equal(known.made.kept, kept):
            batch = known.batch
            # if even their features are the same, nothing after them has to run again
            token = known.token if known.key[0] is key[0] else object()
        else:
            batch, token = children.batch.prune(kept), object()
        held = children.made.held
        if held is not None and bool((kept & ~held).any()):
            self.products[f"upsample {level}"] = self._with_more_features(children, level)
        truth = holds_point(children.batch.sets[0], self.shape.points)
        event = prune_event(level, children.batch.sets[0], logits, kept, truth, settings.prune)
        warning = warning_of(level, logits, kept, threshold)
        scalars = level_scalars(level, kept, truth)
        made = Kept(children.batch, kept, logits[kept], event, warning)
        return Product(key, batch, None, made, scalars, token)

    def _with_more_features(self, known: Product, level: int) -> Product:
        """A level in chunks has the features of those alone that were kept when it ran: here of those kept now."""
        more = self._make_upsample(known.key, level)
        return dataclasses.replace(known, features=more.features, made=more.made, colours=None, norms=None)

    def _make_head(self, key: tuple, _: int) -> Product:
        kept, release = self.products["prune 2"], self.products["upsample 2"].made.release
        if release is None:
            flex = SparseFlex.from_features(kept.batch.sets[0], self.model.head(self.output("prune 2")))
            made, batch = Surface(flex, kept.made.logits), kept.batch
        else:
            flex = release.flex
            rows = kept.batch.sets[0].find(flex.voxels.voxel_ijk)
            made, batch = Surface(flex, kept.made.logits[rows]), VoxelBatch((flex.voxels,))
        return Product(key, batch, made=made, scalars={"voxels": float(batch.n_voxels)})

    def _make_extract(self, key: tuple, _: int) -> Product:
        head = self.products["head"]
        mesh = extract_mesh(head.made.flex)
        found = self._diagnosis(head.made.flex)
        scalars = {"vertices": float(mesh.n_vertices), "faces": float(mesh.n_faces),
                   "open_edges": float(open_edges(mesh)), **cause_scalars(found)}
        return Product(key, head.batch, made=dataclasses.replace(head.made, mesh=mesh, diagnosis=found),
                       scalars=scalars)

    def _diagnosis(self, flex: SparseFlex) -> Diagnosis:
        """What became of each input point."""
        decisions = []
        for level, threshold in enumerate(self.settings.thresholds, start=1):
            children = self.products[f"upsample {level}"]
            decisions.append(Decisions(children.batch.sets[0], children.made.logits,
                                       self.products[f"prune {level}"].made.kept, threshold))
        kept = self.products["prune 2"].batch.sets[0]
        flex = flex if flex.voxels is kept else in_order_of(kept, flex)
        return diagnose(self.shape.points, self.products["latent"].batch.sets[0], decisions, flex)

    # -- features -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def output(self, stage: str) -> Float[Tensor, "rows channels"]:
        """What the next stage takes, made again where it was dropped."""
        product = self.products[stage]
        if stage.startswith("prune"):
            return self._kept_features(stage)
        if product.features is not None:
            return product.features
        if stage == "point features":
            return self.model.encode_points(self.shape.points, self.shape.normals, product.batch)[0]
        trunk, number = self._trunk_of(stage)
        return trunk.blocks[number - 1](self._input(stage), product.batch)

    def _kept_features(self, stage: str) -> Float[Tensor, "kept channels"]:
        children, kept = self.products[stage.replace("prune", "upsample")], self.products[stage].made.kept
        rows = kept if children.made.held is None else kept[children.made.held]
        return children.features if bool(rows.all()) else children.features[rows]

    def _input(self, stage: str) -> Float[Tensor, "rows channels"]:
        """Of a block."""
        trunk, number = self._trunk_of(stage)
        x = self.output(self.before(stage))
        return x if number > 1 else trunk.embed(x.to(self.model.dtype), self._batch_of(stage))

    def _trunk_of(self, stage: str) -> tuple[Trunk, int]:
        part, _, number = stage.partition(" ")
        return self.model.encoder if part == "encoder" else self.model.decoder, int(number)

    def _batch_of(self, stage: str) -> VoxelBatch:
        return self.products["latent" if stage.startswith("trunk") else "voxels"].batch

    def _through_block(self, key: tuple, stage: str) -> Product:
        trunk, number = self._trunk_of(stage)
        batch, x = self._batch_of(stage), self._input(stage)
        product = Product(key, batch)
        row = self._attended_row(batch)
        if row is not None:
            product.attention = _attention(trunk, number, x, batch, row)
        product.features = trunk.blocks[number - 1](x, batch)
        return product

    def _drop_features_after(self, stage: str) -> None:
        """Those of later stages, which have to run again."""
        for later in self.stages[self.stages.index(stage) + 1 :]:
            if later in self.products:
                self.products[later].features = None

    def _drop_features(self, newest: str) -> None:
        """Keeps what blocks gave, the newest whatever it takes, within the bound."""
        blocks = [self.products[stage] for stage in self.stages if stage != newest and stage in self.products
                  and stage.startswith(_BLOCKS)]
        newest_bytes = self.products[newest].feature_bytes if newest.startswith(_BLOCKS) else 0
        total = newest_bytes + sum(product.feature_bytes for product in blocks)
        for product in blocks:
            if total <= self.kept_bytes:
                break
            if product.features is not None:
                total -= product.feature_bytes
                if product.colours is None:
                    product.show(product.features)
                product.features = None

    def shown(self, stage: str) -> Product | None:
        """The stage's product with colours and norms; None where it has no features or belongs to an older pass."""
        product = self.products[stage]
        if product.colours is None:
            if product.features is None and not self.is_current(stage):
                return None
            level = self.products[stage.replace("prune", "upsample")]
            if isinstance(level.made, Children) and level.features is None:
                return None
            product.show(self.output(stage), product.made.held if isinstance(product.made, Children) else None)
        return product

    # -- attention ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def attention(self, stage: str) -> Float[Tensor, "rows heads"] | None:
        """What the attended voxel attends to in a block, NaN outside its window; None where none is attended."""
        product = self.products[stage]
        row = self._attended_row(product.batch)
        if row is None or not self.is_current(stage):
            return None
        if product.attention is None or product.attention.of_row != row:
            self._attend_again(stage, row)
        _, rows, weights = product.attention
        found = torch.full((product.batch.n_voxels, len(weights)), torch.nan, device=weights.device)
        found[rows] = weights.T.float()
        return found

    def _attend_again(self, last: str, row: int) -> None:
        """All blocks of a trunk up to one, from what is still there of their inputs: at most once through them."""
        trunk, count = self._trunk_of(last)
        part, x = last.partition(" ")[0], None
        for number in range(1, count + 1):
            product = self.products[f"{part} {number}"]
            known = None if number == 1 else self.products[f"{part} {number - 1}"].features
            if known is not None:
                x = known
            else:
                x = self._input(f"{part} 1") if number == 1 else trunk.blocks[number - 2](x, product.batch)
            product.attention = _attention(trunk, number, x, product.batch, row)

    def _attended_row(self, batch: VoxelBatch) -> int | None:
        """The row of the attended voxel; None where they haven't got it. It is named by its place, not by a row: other
        edits of the latents have other voxels."""
        voxels, key = batch.sets[0], int(self.settings["attended_voxel"])
        side = voxels.resolution
        if not 0 <= key < side**3:
            return None
        row = int(voxels.find(torch.tensor([place_of(key, side)], dtype=torch.int32, device=voxels.device)))
        return row if row >= 0 else None


def _same_voxels(a: SparseVoxels, b: SparseVoxels) -> bool:
    return a is b or torch.equal(a.voxel_ijk, b.voxel_ijk)


def _attention(trunk: Trunk, number: int, x: Tensor, batch: VoxelBatch, row: int) -> Attention:
    """Of the voxels of the row's window alone."""
    block = trunk.blocks[number - 1]
    windows = block.plan(batch).window_of_row
    inside = windows == windows[row]
    rows = inside.nonzero().squeeze(1)
    own = int((rows == row).nonzero())
    _, weights = attention_of_row(block.attention_qkv(x[rows]), block.plan(batch.prune(inside)), own)
    return Attention(row, rows, weights)
