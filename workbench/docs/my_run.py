"""A trainer of one's own: a SparseFlex learns a torus by a loss of this file. workbench view my_run.py:make_run"""

import torch

import sparseflex as sf
from sparseflex.sampling import orbit_camera
from sparseflex.training.run import RunCamera, Setting
from sparseflex.training.staged_run import StagedRun


def torus(points):  # its signed distance, negative inside
    return torch.stack([points[:, [0, 2]].norm(dim=1) - 0.3, points[:, 1]]).norm(dim=0) - 0.12

class TorusRun(StagedRun):
    name, stages = "a torus of one's own", ("extract", "loss", "update")
    fields = {"voxels": "voxels", "mesh": "mesh", "corner_sdf": "corner", "error": "corner"}
    def __init__(self):
        super().__init__(lr=Setting(0.01, 1e-4, 0.1, "learning rate"))
        cells = torch.cartesian_prod(*[torch.arange(32, dtype=torch.int32)] * 3)
        self.voxels = sf.SparseVoxels(cells[torus((cells + 0.5) / 32 - 0.5).abs() < 0.1], 32)
        self.corner_sdf = (self.voxels.corners_world.norm(dim=1) - 0.3).requires_grad_()  # begins as a ball
        self.optimiser = torch.optim.Adam([self.corner_sdf])
        self.kept = {"corner_sdf": self.corner_sdf, "optimiser": self.optimiser}  # to save, and to go back to
        self.camera = RunCamera(orbit_camera(30, 25, 1.6, radius=0.45), "orbit")
    def cameras(self):
        return [self.camera]
    def do_extract(self):
        self.mesh = sf.extract_mesh(sf.SparseFlex.from_sdf(self.voxels, self.corner_sdf), training=True)
        return {"voxels": self.voxels.n_voxels, "faces": self.mesh.n_faces}
    def do_loss(self):
        self.error = self.corner_sdf - torus(self.voxels.corners_world)
        self.loss = self.error.square().mean() + 0.1 * torus(self.mesh.vertices).square().mean()
        return {"loss": self.loss}
    def do_update(self):
        self.optimiser.param_groups[0]["lr"] = self.chosen["lr"]
        self.optimiser.zero_grad()
        self.loss.backward()
        self.optimiser.step()

make_run = TorusRun
