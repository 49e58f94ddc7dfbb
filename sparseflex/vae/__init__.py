"""The SparseFlex VAE: points to sparse latents to a surface (paper, section 3.3; TripoSF's public weights)."""

from sparseflex.vae.config import VAEConfig
from sparseflex.vae.model import Decoded, Posterior, Reconstruction, SparseFlexVAE

__all__ = ["Decoded", "Posterior", "Reconstruction", "SparseFlexVAE", "VAEConfig"]
