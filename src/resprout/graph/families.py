"""The names of PyTorch's operations (ATen), by what they do to labels."""

# ruff: noqa: SIM905

MOVES = frozenset(  # every element of the result is one of the operand's, or padding
    "view _unsafe_view reshape permute transpose t expand expand_as unsqueeze squeeze slice select narrow flatten unflatten "
    "unfold diagonal view_as roll flip rot90 repeat tile repeat_interleave pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle movedim swapaxes unbind split split_with_sizes chunk tensor_split constant_pad_nd "
    "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d view_copy reshape_copy _reshape_alias unsafe_split "
    "unsafe_chunk".split()
)
VIEWS = frozenset({"view", "_unsafe_view", "_reshape_alias", "view_copy", "reshape"})
POINTWISE = frozenset(  # besides those that PyTorch tags so
    "copy where addcmul addcdiv lerp hardswish hardsigmoid hardtanh mish elu selu celu relu6 softplus leaky_relu threshold "
    "masked_fill glu_jvp prelu _prelu_kernel rrelu_with_noise".split()
)
SAME = frozenset(  # the operand itself
    "clone contiguous _to_copy detach alias lift_fresh dropout native_dropout to type_as lift_fresh_copy positive "
    "feature_dropout alpha_dropout resolve_conj resolve_neg".split()
)
SPATIAL = frozenset(  # windows over the last dimensions
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_max_pool1d "
    "adaptive_max_pool2d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
    "_upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa upsample_linear1d upsample_trilinear3d".split()
)
REDUCE = frozenset(  # one number for many
    "sum mean amax amin max min prod var std var_mean std_mean norm linalg_vector_norm argmax argmin any all logsumexp "
    "median nansum count_nonzero aminmax".split()
)
ALONG = frozenset(  # each element depends on all along a dimension
    "_softmax _log_softmax softmax log_softmax cumsum cumprod cummax cummin logcumsumexp sort topk _safe_softmax".split()
)
MAKES = frozenset(  # the same numbers whatever it is given
    "arange zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty "
    "scalar_tensor eye linspace tril triu tril_indices triu_indices rand randn rand_like randn_like _local_scalar_dense item "
    "zero fill empty_strided new_empty_strided one_hot randint".split()
)
UNIFORM = frozenset("zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full zero fill".split())
SDPA = frozenset(
    "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math "
    "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_cudnn_attention".split()
)
LITERAL = frozenset(  # their sizes may stand in the model's code
    "view _unsafe_view reshape slice narrow split split_with_sizes expand constant_pad_nd unflatten repeat "
    "native_group_norm select unbind chunk unsafe_split _reshape_alias".split()
)
