"""The SparseFlex workbench: a Polyscope application around the sparseflex library."""
