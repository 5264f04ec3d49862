"""The operators that code of a model file may call: each computes its results from its arguments alone.

What is not on the list is not called, whatever it is: files (`save`, `from_file`), text (`warn`, `_print`), random
numbers, the state of torch (`manual_seed`, `set_grad_enabled`), other devices, tasks (`wait`), memory behind a tensor's
back (`set_`, `set_data`, `resize_`), gradients, sparse and quantised tensors. Dropout and `rrelu` stand here because
networks in evaluation mode carry them; drawing from them is refused where the graph is captured.
"""

from __future__ import annotations

# fmt: off
# Results in new memory, or views.
_FUNCTIONS = """
abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator alias all allclose alpha_dropout
amax amin aminmax angle any arange arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere as_strided
as_tensor asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
baddbmm bartlett_window batch_norm bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount bitwise_and
bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_shapes
broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist ceil celu chain_matmul channel_shuffle chunk clamp clamp_max
clamp_min clip clone col2im column_stack complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc
conv_transpose1d conv_transpose2d conv_transpose3d convolution copysign cos cosh cosine_embedding_loss cosine_similarity
count_nonzero cpu cross cross_entropy_loss ctc_loss cummax cummin cumprod cumsum deg2rad det detach device diag diag_embed diagflat
diagonal diff digamma dim dist div divide dot dropout dsplit dstack einsum element_size elu embedding embedding_bag empty
empty_like empty_permuted empty_strided eq equal erf erfc erfinv exp exp2 expand expand_as expm1 eye feature_alpha_dropout feature_dropout
fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
fft_rfftn fill fix flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like gather
ge gelu ger glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hamming_window
hann_window hardshrink hardsigmoid hardswish hardtanh heaviside hinge_embedding_loss hsplit hstack huber_loss hypot im2col imag index
index_add index_copy index_fill index_put index_select inner instance_norm inverse is_autocast_cpu_enabled is_autocast_enabled
is_complex is_conj is_contiguous is_floating_point is_grad_enabled is_inference is_leaf is_neg is_nonzero is_same_size is_scripting
is_signed isclose isfinite isinf isnan isneginf isposinf isreal item kaiser_window kl_div kron kthvalue l1_loss layer_norm ldexp le
leaky_relu lerp less less_equal lift lift_fresh lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_diagonal
linalg_householder_product linalg_inv linalg_inv_ex linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power
linalg_multi_dot linalg_norm linalg_qr linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_vecdot
linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp
logical_and logical_not logical_or logical_xor logit logsumexp lstm lstm_cell lt mH mT margin_ranking_loss masked_fill masked_scatter
masked_select matmul matrix_H matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis movedim
mse_loss msort mul multi_margin_loss multilabel_margin_loss multiply mv nan_to_num nanmean nansum narrow native_batch_norm
native_channel_shuffle native_dropout native_group_norm native_layer_norm native_norm ne neg negative new_empty new_empty_strided
new_full new_ones new_zeros nll_loss nll_loss_nd nonzero norm norm_except_dim not_equal nuclear_norm numel numpy_T one_hot ones
ones_like outer pad pad_sequence pairwise_distance pdist permute pixel_shuffle pixel_unshuffle poisson_nll_loss polar positive pow
prelu prod rad2deg ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat
repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg result_type
rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention
scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh
size slice slice_copy slice_scatter slow_conv3d slow_conv_dilated2d smooth_l1_loss soft_margin_loss softmax softplus softshrink sort
special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
special_i0 special_i1 special_log1p special_log_ndtr special_log_softmax special_logit special_logsumexp special_ndtr special_round
special_sinc special_softmax special_xlog1py special_xlogy split split_with_sizes sqrt square squeeze stack std std_mean storage_offset
stride sub subtract sum sum_to_size swapaxes swapdims t take take_along_dim tan tanh tensor tensor_split tensordot thnn_conv2d
threshold tile to topk trace transpose trapezoid tril tril_indices triplet_margin_loss triu triu_indices true_divide trunc type_as
unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean vdot view view_as
view_as_complex view_as_real view_copy vsplit vstack where xlogy zeros zeros_like nested_to_padded_tensor to_padded_tensor
__and__ __interpolate __lshift__ __or__ __rshift__ __upsample __upsample_bilinear __upsample_nearest __xor__
_adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_impl_index _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int
_cast_Long _cast_Short _conj _conj_copy _conj_physical _convolution _convolution_mode _embedding_bag _embedding_bag_forward_only
_euclidean_dist _native_batch_norm_legit _native_batch_norm_legit_no_training _native_multi_head_attention _nested_tensor_from_mask
_nested_tensor_from_mask_left_aligned _neg_view _log_softmax _pad_circular _pad_enum _prelu_kernel _reshape_alias _reshape_copy
_safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
_scaled_dot_product_flash_attention_for_cpu _shape_as_tensor _softmax _stack _to_copy _transformer_encoder_layer_fwd
_trilinear _unique2 _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm _weight_norm_interface
"""

# Results in the memory of the first argument, which holds as many entries as they need.
_IN_PLACE = """
abs_ acos_ acosh_ add_ addbmm_ addcdiv_ addcmul_ addmm_ addmv_ addr_ alpha_dropout_ asin_ asinh_ atan_ atan2_ atanh_ baddbmm_ bitwise_and_
bitwise_not_ bitwise_or_ bitwise_xor_ ceil_ celu_ clamp_ clamp_max_ clamp_min_ clip_ copy_ cos_ cosh_ cumprod_ cumsum_ detach_ div_
divide_ dropout_ elu_ eq_ erf_ erfc_ exp_ exp2_ expm1_ feature_alpha_dropout_ feature_dropout_ fill_ fill_diagonal_ floor_
floor_divide_ fmod_ frac_ ge_ gelu_ gt_ hardsigmoid_ hardswish_ hardtanh_ index_add_ index_copy_ index_fill_ index_put_ le_
leaky_relu_ lerp_ log_ log10_ log1p_ log2_ logical_and_ logical_not_ logical_or_ logical_xor_ logit_ lt_ masked_fill_ masked_scatter_
mish_ mul_ multiply_ nan_to_num_ ne_ neg_ negative_ pow_ reciprocal_ relu_ relu6_ remainder_ renorm_ round_ rrelu_ rsqrt_ scatter_
scatter_add_ scatter_reduce_ selu_ sgn_ sigmoid_ sign_ silu_ sin_ sinc_ sinh_ sqrt_ square_ squeeze_ sub_ subtract_ t_ tan_ tanh_
threshold_ transpose_ tril_ triu_ true_divide_ trunc_ unsqueeze_ xlogy_ zero_ _no_grad_fill_ _no_grad_zero_ __iand__ __ior__ __ixor__
"""

# Numbers, lists, dictionaries and strings of TorchScript.
_VALUES = """
Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit Size __contains__ __derive_index __getitem__
__is__ __isnot__ __not__ __range_length __round_to_zero_floordiv _infer_size _list_to_tensor _set_item _tensor_to_list _unwrap_optional
append bin capitalize chr clear copy count degrees dict divmod endswith extend fabs factorial find floordiv format gamma gcd
get hex insert isalnum isalpha isdigit islower isspace isupper items join keys len lgamma
list ljust lower lstrip mathremainder modf oct ord partition percentFormat pop popitem radians remove replace reverse rfind rjust
rpartition rsplit rstrip setdefault sorted splitlines startswith str strip swapcase title update upper values zfill
"""

# What torch.export writes besides: assertions on shapes, dtypes and values, and sizes.
_EXPORTED = """
_assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _functional_assert_scalar
_functional_sym_constrain_range _functional_sym_constrain_range_for_size sym_constrain_range sym_constrain_range_for_size
sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride _native_batch_norm_legit_functional _local_scalar_dense
"""
# fmt: on

ATEN = frozenset((_FUNCTIONS + _IN_PLACE).split())
SCRIPT = ATEN | frozenset(_VALUES.split())
EXPORTED = ATEN | frozenset(_EXPORTED.split())

# `ops.prim.NAME` of TorchScript: facts about a value, and the end of a call.
PRIM = frozenset(
    """RaiseException NumToTensor abs data device dtype grad index is_cpu is_cuda is_meta is_mkldnn is_mps is_nested
    is_quantized is_sparse is_xla itemsize layout max min name nbytes requires_grad type unchecked_unwrap_optional
    EnumName EnumValue""".split()
)

# `torch.ops.prims.NAME` of torch.export.
PRIMS = frozenset(
    """abs acos add amax amin asin atan broadcast_in_dim cat ceil collapse_view convert_element_type cos cosh div eq erf
    exp expm1 fmax fmin floor ge gt iota le log log1p log2 lt maximum minimum mul ne neg pow prod reciprocal reshape
    rsqrt sign sin sinh split_dim sqrt squeeze sub sum tan tanh transpose trunc var view_of where""".split()
)

# Why not, for those that people ask about. (names, what they do)
_REASONS = (
    ("save from_file _save _load load", "reads or writes files"),
    ("tolist", "takes numbers out of tensors (tolist)"),
    ("print Print _print warn", "prints"),
    ("manual_seed seed initial_seed set_grad_enabled set_autocast_enabled", "changes the state of torch"),
    ("fork wait awaitable rpc_async rpc_sync", "starts tasks of its own"),
    ("rand randn rand_like randn_like randint randint_like randperm bernoulli bernoulli_ normal normal_ uniform_ "
     "multinomial random_ poisson binomial exponential_ geometric_ cauchy_ log_normal_", "draws random numbers"),
    ("cuda pin_memory to_mkldnn record_stream", "moves data to another device"),
    ("set_ set_data resize_ resize_as_ resize", "changes the memory behind a tensor"),
)  # fmt: skip
_WHY = {name: reason for names, reason in _REASONS for name in names.split()}


def why_not(name: str) -> str:
    """What is said of an operator that is not on the list."""
    return _WHY.get(name, "is not among the pure operators that lipcert lets a file call")
