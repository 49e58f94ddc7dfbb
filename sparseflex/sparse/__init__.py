"""Operations for networks on sparse voxels: convolution, windowed attention, norms, position embedding."""

from sparseflex.sparse.attention import WindowPlan, attention_by_parts, attention_of_row, windowed_attention
from sparseflex.sparse.backends import backend_name
from sparseflex.sparse.batch import VoxelBatch
from sparseflex.sparse.conv import SubMConv3d, child_conv, submanifold_conv
from sparseflex.sparse.norm import GroupNorm, Statistics, group_statistics
from sparseflex.sparse.position import position_embedding

__all__ = [
    "GroupNorm",
    "Statistics",
    "SubMConv3d",
    "VoxelBatch",
    "WindowPlan",
    "attention_by_parts",
    "attention_of_row",
    "backend_name",
    "child_conv",
    "group_statistics",
    "position_embedding",
    "submanifold_conv",
    "windowed_attention",
]
